"""DeepLabv3 at stride 8 on a ResNet of Caffe's form, or on MobileNetV2, as COSNet uses it.

Chen et al., arXiv:1706.05587, in the form of carrierlxk/COSNet, deeplab/siamese_model_conf.py: a
bottleneck has its stride on the first convolution, the stem's pooling rounds its size up, every
block of the last two layers is dilated (2 and 4), the convolutions of the pyramid (ASPP) have
biases although norms follow, and the last activation is a PReLU.

Glossary: B batch, H W image size, h w the grid at stride 8.
"""

from collections.abc import Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vos_jax.nn.mobilenet_v2 import MobileNetV2
from vos_jax.nn.norm import ConvNorm
from vos_jax.nn.remat import block
from vos_jax.nn.resnet import ResNet

RESNETS = {"resnet18": 18, "resnet50": 50, "resnet101": 101}
BACKBONES = (*RESNETS, "mobilenet_v2")
RATES = (6, 12, 18)  # dilations of the pyramid
STRIDE = 8
_init = nn.initializers.normal(0.01)  # of the release


class CaffeResNet(ResNet):
    """ResNet at stride 8 whose strides, pooling and dilations are those of DeepLab in Caffe."""

    output_stride: int = STRIDE

    @property
    def pool_padding(self) -> tuple[int, int]:
        """One more behind: the size is rounded up, and what is added never wins."""
        return 1, 2

    def _blocks(self) -> Iterator[list[dict[str, Any]]]:
        for blocks in super()._blocks():
            dilation = blocks[-1]["dilation"]
            yield [{**b, "first_dilation": dilation, "stride_first": True} for b in blocks]


class DeepLabV3(nn.Module):
    """Backbone and pyramid.

    features: channels of the result, pyramid: of each branch. width: multiplies the backbone's.
    norm_eval: all norms keep their running statistics in training, too.
    """

    backbone: str = "resnet101"
    features: int = 256
    pyramid: int = 512
    width: float = 1.0
    norm_eval: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Normalised images [B, H, W, 3] -> [B, h, w, features]; h = ceil(H / 8) or one more."""
        *_, x = self._trunk()(x, train)

        def conv(name, features=self.pyramid, activation=nn.relu, **shape):
            return block(ConvNorm)(
                features,
                use_bias=True,
                kernel_init=_init,
                activation=activation,
                norm_eval=self.norm_eval,
                dtype=self.dtype,
                name=name,
                **shape,
            )

        pooled = jnp.mean(x, axis=(1, 2), keepdims=True, dtype=jnp.float32).astype(x.dtype)
        pooled = conv("image_pooling")(pooled, train)
        branches = [jnp.broadcast_to(pooled, (*x.shape[:3], self.pyramid)), conv("aspp0")(x, train)]
        for i, rate in enumerate(RATES, start=1):
            branches.append(conv(f"aspp{i}", kernel=3, dilation=rate)(x, train))
        x = jnp.concatenate(branches, axis=-1)
        x = conv("bottleneck", self.features, activation=None, kernel=3)(x, train)
        slope = self.param("slope", nn.initializers.constant(0.25), (1,))  # of a PReLU
        return jnp.where(x > 0, x, slope.astype(x.dtype) * x)

    def _trunk(self) -> nn.Module:
        shared = dict(width=self.width, norm_eval=self.norm_eval, dtype=self.dtype, name="backbone")
        if self.backbone in RESNETS:
            return CaffeResNet(depth=RESNETS[self.backbone], **shared)
        if self.backbone == "mobilenet_v2":
            return MobileNetV2(output_stride=STRIDE, **shared)
        raise ValueError(f"backbone: expected one of {BACKBONES}, found {self.backbone!r}")
