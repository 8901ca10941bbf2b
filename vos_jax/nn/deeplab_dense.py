"""DeepLabv3+ with dense convolutions, on ResNet-101 or MobileNetV2, as CFBI uses it.

Chen et al., ECCV 2018 (arXiv:1802.02611), in the form of jfzhang95/pytorch-deeplab-xception, whose
COCO weights CFBI starts from: 3x3 convolutions in ASPP and decoder are dense, layer4 of the ResNet
has the dilations 2, 4, 8 ("multi-grid"), and MobileNetV2 pads before it expands.

Glossary: B batch, H W image size, hs ws the grid at stride s.
"""

from collections.abc import Iterator
from typing import Any

import flax.linen as nn
import jax
from flax import struct

from vos_jax.nn.deeplab import DeepLabV3Plus
from vos_jax.nn.merging_conv import MergingConv
from vos_jax.nn.mobilenet_v2 import MobileNetV2
from vos_jax.nn.norm import BatchNorm, ConvNorm
from vos_jax.nn.remat import block
from vos_jax.nn.resnet import ResNet

BACKBONES = ("resnet101", "mobilenet_v2")

_kernel_init = nn.initializers.variance_scaling(2.0, "fan_in", "normal")


@struct.dataclass
class Maps:
    """What the systems on top look at."""

    low_level: jax.Array  # [B, h4, w4, 256 (ResNet) or 24 (MobileNetV2) * width], of the backbone
    mid_level: jax.Array  # [B, h8, w8, 512 or 32 * width], of the backbone
    pyramid: jax.Array  # [B, h16, w16, features], of the ASPP
    decoded: jax.Array  # [B, h4, w4, features]


class MultiGridResNet(ResNet):
    """ResNet whose last layer has dilations instead of a stride: 2, 4, 8, the first block too."""

    grid: tuple[int, ...] = (1, 2, 4)

    def _blocks(self) -> Iterator[list[dict[str, Any]]]:
        *layers, last = super()._blocks()
        yield from layers
        dilations = [2 * factor for factor in self.grid]
        yield [
            {**fields, "dilation": d, "first_dilation": d}
            for fields, d in zip(last, dilations, strict=True)
        ]


class MergingConvNorm(nn.Module):
    """3x3 MergingConv, BatchNorm, ReLU. Parameters as in ConvNorm."""

    features: int
    epsilon: float
    momentum: float
    norm_eval: bool
    dtype: Any

    @nn.compact
    def __call__(self, coarse: jax.Array, fine: jax.Array, train: bool = False) -> jax.Array:
        """coarse [B, h, w, Ca], fine [B, H, W, Cb] -> [B, H, W, features]."""
        conv = MergingConv(self.features, 3, "bilinear", _kernel_init, self.dtype, name="conv")
        norm = BatchNorm(self.epsilon, self.momentum, self.norm_eval, self.dtype, name="norm")
        return nn.relu(norm(conv(coarse, fine), train))


class DenseDeepLabV3Plus(DeepLabV3Plus):
    """DeepLabV3Plus with dense instead of separable convolutions, which also hands out other maps.

    Its output stride is 16. Parameters are named as in DeepLabV3Plus.
    """

    backbone: str = "resnet101"
    output_stride: int = 16

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> Maps:
        """x [B, H, W, 3], the backbone's mean and deviation removed."""
        low_level, mid_level, high = self._trunk(x, train)
        pyramid = self._pyramid(high, train)
        return Maps(low_level, mid_level, pyramid, self._decode(pyramid, low_level, train))

    def _trunk(self, x: jax.Array, train: bool) -> tuple[jax.Array, jax.Array, jax.Array]:
        """The backbone's maps at stride 4, 8, 16."""
        shared = dict(
            width=self.width,
            norm_eval=self.backbone_norm_eval,
            momentum=self.momentum,
            dtype=self.dtype,
            name="backbone",
        )
        if self.backbone == "resnet101":
            low_level, mid_level, _, high = MultiGridResNet(depth=101, output_stride=16, **shared)(
                x, train
            )
            return low_level, mid_level, high
        if self.backbone == "mobilenet_v2":
            # unlike torchvision's, its blocks pad before they expand
            return MobileNetV2(pad_first=True, **shared)(x, train)
        raise ValueError(f"backbone: expected one of {BACKBONES}, found {self.backbone!r}")

    def _decode(self, x: jax.Array, low_level: jax.Array, train: bool) -> jax.Array:
        """ASPP output and low-level map merged at the latter's size, then refined."""
        low_level = self._conv(self.low_level_features, "feature_projection0")(low_level, train)
        norm = self._norm()
        norm.pop("activation")
        merge = block(MergingConvNorm)(self.features, name="decoder_conv0", **norm)
        x = merge(x, low_level, train)
        return self._conv3x3("decoder_conv1")(x, train)

    def _conv3x3(self, name: str, dilation: int = 1) -> nn.Module:
        """In this network nothing is separable."""
        return block(ConvNorm)(
            self.features,
            kernel=3,
            dilation=dilation,
            kernel_init=_kernel_init,
            name=name,
            **self._norm(),
        )
