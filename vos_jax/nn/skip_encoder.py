"""A backbone whose maps of every stride go through a projection of their own, for a decoder.

Encoder of RSIS (Salvador et al., arXiv 1712.00617) and RVOS (Ventura et al., CVPR 2019), class
FeatureExtractor of the released code: each map of the backbone is convolved (3x3, with a bias
although a normalisation follows) and normalised, without activation. Names follow the release:
skip5 is the map at stride 32, skip4 at 16, skip3 at 8, skip2 at 4, skip1 at 2. RSIS has all of
them, RVOS all but the last.

Glossary: B videos, H W frame size.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct

from vos_jax.nn.mobilenet_v2 import MobileNetV2
from vos_jax.nn.norm import ConvNorm
from vos_jax.nn.resnet import ResNet

RESNETS = {"resnet18": 18, "resnet50": 50, "resnet101": 101}
BACKBONES = (*RESNETS, "mobilenet_v2")
NAMES = ("skip5", "skip4", "skip3", "skip2", "skip1")


@struct.dataclass
class Features:
    """One frame."""

    skips: tuple[jax.Array, ...]  # [B, h / s, w / s, C], s = 32, 16, 8, ...
    size: tuple[int, int] = struct.field(pytree_node=False)  # h, w


class SkipEncoder(nn.Module):
    """The encoder.

    features: channels of the projections, the deepest first; there are as many maps. width:
    multiplies the backbone's channels. norm_eval: all norms keep their running statistics in
    training, too.
    """

    features: tuple[int, ...] = (128, 128, 64, 32)
    backbone: str = "resnet101"
    width: float = 1.0
    norm_eval: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, frames: jax.Array, train: bool = False) -> tuple[jax.Array, ...]:
        """Normalised frames [B, H, W, 3] -> maps [B, ceil(H / s), ceil(W / s), features].

        The deepest first: strides s = 32, 16, 8, 4, 2.
        """
        shared = dict(norm_eval=self.norm_eval, dtype=self.dtype)
        maps = self._backbone(name="backbone", width=self.width, **shared)(frames, train)
        return tuple(
            ConvNorm(channels, kernel=3, use_bias=True, name=name, **shared)(x, train)
            for name, channels, x in zip(NAMES, self.features, reversed(maps), strict=False)
        )

    def _backbone(self, **fields: Any) -> nn.Module:
        finest = len(self.features) == len(NAMES)
        if self.backbone in RESNETS:
            return ResNet(depth=RESNETS[self.backbone], stem_map=finest, **fields)
        strides = (2, 4, 8, 16) if finest else (4, 8, 16)
        return MobileNetV2(output_stride=32, finer=strides, **fields)
