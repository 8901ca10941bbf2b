"""DeepLabv3+: atrous spatial pyramid pooling and a stride-4 decoder on a dilated backbone.

Chen et al., "Encoder-Decoder with Atrous Separable Convolution for Semantic Image Segmentation",
ECCV 2018 (arXiv:1802.02611), as DeepLab's TensorFlow code and FEELVOS use it. Atrous rates are
given for output stride 16 and scale with 16 / output_stride, so the same weights serve both.

Glossary: B batch, H W image size, h w = ceil(H / 4), ceil(W / 4).
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vos_jax.nn.images import imagenet_normalise, inception_normalise
from vos_jax.nn.mobilenet_v2 import MobileNetV2
from vos_jax.nn.norm import ConvNorm, SeparableConvNorm
from vos_jax.nn.remat import block
from vos_jax.nn.xception import Xception65
from vos_jax.ops.resize import resize_bilinear

BACKBONES = ("xception_65", "mobilenet_v2")


def normalise(frames: jax.Array, backbone: str) -> jax.Array:
    """RGB 0..255 (uint8 or float) [..., 3] -> the float32 input that this backbone expects."""
    if backbone not in BACKBONES:
        raise _unknown_backbone(backbone)
    return (inception_normalise if backbone == "xception_65" else imagenet_normalise)(frames)


def build_backbone(
    backbone: str, output_stride: int, width: float = 1.0, **settings: Any
) -> nn.Module:
    """The backbone called `backbone`; width multiplies its channels, settings are other fields."""
    kinds = {"xception_65": Xception65, "mobilenet_v2": MobileNetV2}
    if backbone not in kinds:
        raise _unknown_backbone(backbone)
    return kinds[backbone](output_stride=output_stride, width=width, **settings)


class DeepLabV3Plus(nn.Module):
    """Backbone, ASPP and decoder; the result is the `features`-channel map at stride 4.

    features is the width of ASPP and decoder, low_level_features that of the projected low-level
    map; width is the backbone's multiplier. backbone_norm_eval and norm_eval say whether the batch
    normalisations of the backbone and of the rest always use their running statistics, momentum
    is that of the live ones. Dropout acts on concat_projection with train=True, whatever the norms
    do, and needs the rng "dropout".
    """

    backbone: str = "xception_65"
    output_stride: int = 16
    features: int = 256
    low_level_features: int = 48
    width: float = 1.0
    rates: tuple[int, ...] = (6, 12, 18)  # at output stride 16
    dropout: float = 0.1
    backbone_norm_eval: bool = True
    norm_eval: bool = True
    momentum: float = 0.9997
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """x [B, H, W, 3], scaled by `normalise` -> [B, ceil(H / 4), ceil(W / 4), features]."""
        backbone = build_backbone(
            self.backbone,
            self.output_stride,
            self.width,
            norm_eval=self.backbone_norm_eval,
            momentum=self.momentum,
            dtype=self.dtype,
            name="backbone",
        )
        low_level, *_, x = backbone(x, train)
        x = self._pyramid(x, train)
        return self._decode(x, low_level, train)

    def _conv(self, features: int, name: str) -> ConvNorm:
        return block(ConvNorm)(
            features, name=name, kernel_init=nn.initializers.xavier_uniform(), **self._norm()
        )

    def _conv3x3(self, name: str, dilation: int = 1) -> nn.Module:
        """A 3x3 convolution with its norm; here a separable one."""
        return block(SeparableConvNorm)(
            self.features,
            dilation=dilation,
            depthwise_init=nn.initializers.truncated_normal(0.33),
            pointwise_init=nn.initializers.truncated_normal(0.06),
            name=name,
            **self._norm(),
        )

    def _norm(self) -> dict[str, Any]:
        return dict(
            activation=nn.relu,
            epsilon=1e-5,
            momentum=self.momentum,
            norm_eval=self.norm_eval,
            dtype=self.dtype,
        )

    def _pyramid(self, x: jax.Array, train: bool) -> jax.Array:
        """ASPP at the backbone's stride: [B, h', w', C] -> [B, h', w', features]."""
        pooled = jnp.mean(x, axis=(1, 2), keepdims=True, dtype=jnp.float32).astype(x.dtype)
        pooled = self._conv(self.features, "image_pooling")(pooled, train)
        branches = [
            jnp.broadcast_to(pooled, (*x.shape[:3], self.features)),
            self._conv(self.features, "aspp0")(x, train),
        ]
        for i, rate in enumerate(self.rates, start=1):
            dilation = rate * 16 // self.output_stride
            branches.append(self._conv3x3(f"aspp{i}", dilation)(x, train))
        x = jnp.concatenate(branches, axis=-1)
        x = self._conv(self.features, "concat_projection")(x, train)
        return nn.Dropout(self.dropout)(x, deterministic=not train)

    def _decode(self, x: jax.Array, low_level: jax.Array, train: bool) -> jax.Array:
        """ASPP output at the low-level map's size (already stride 4), both refined."""
        low_level = self._conv(self.low_level_features, "feature_projection0")(low_level, train)
        x = resize_bilinear(x, low_level.shape[1:3]).astype(low_level.dtype)
        x = jnp.concatenate([x, low_level], axis=-1)
        x = self._conv3x3("decoder_conv0")(x, train)
        return self._conv3x3("decoder_conv1")(x, train)


def _unknown_backbone(name: str) -> ValueError:
    return ValueError(f"backbone: expected one of {', '.join(BACKBONES)}, found {name!r}")
