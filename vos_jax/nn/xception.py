"""Xception-65 in its aligned, dilated form: the FEELVOS backbone.

Chollet, "Xception: Deep Learning with Depthwise Separable Convolutions", CVPR 2017
(arXiv:1610.02357); the aligned 65-layer variant of Chen et al., "Encoder-Decoder with Atrous
Separable Convolution for Semantic Image Segmentation", ECCV 2018 (arXiv:1802.02611). Follows
DeepLab's TensorFlow code, without its classification head.

One parameter tree serves both output strides. Glossary: B batch, H W image size.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vos_jax.nn.mobilenet_v2 import scaled_channels
from vos_jax.nn.norm import ConvNorm, SeparableConvNorm
from vos_jax.nn.remat import block

EPSILON = 1e-3
MIDDLE_UNITS = 16

# output stride -> (stride of block3, dilation of the middle flow and exit1, dilation of exit2)
_STRIDES = {16: (2, 1, 2), 8: (1, 2, 4)}


class XceptionUnit(nn.Module):
    """Three separable convolutions sep1..sep3 and a shortcut.

    Pre-activated (the default): ReLU before each separable convolution, none inside, none after
    the sum; the shortcut takes the input before its ReLU. `inner_activation` is the form of the
    last unit: no ReLU before, one after each normalisation.
    shortcut: "conv" (1x1 with the unit's stride, and norm), "sum" (identity) or "none".
    """

    features: tuple[int, int, int]
    stride: int = 1
    dilation: int = 1
    shortcut: str = "conv"
    inner_activation: bool = False
    norm_eval: bool = True
    momentum: float = 0.9997
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> tuple[jax.Array, jax.Array]:
        """x [B, h, w, C] -> the unit's output and the output of sep2 (before any ReLU)."""
        init = nn.initializers.truncated_normal(0.09)  # DeepLab's xception_arg_scope
        norm = dict(
            epsilon=EPSILON, momentum=self.momentum, norm_eval=self.norm_eval, dtype=self.dtype
        )
        residual, outputs = x, []
        for i, features in enumerate(self.features, start=1):
            if not self.inner_activation:
                x = nn.relu(x)
            x = SeparableConvNorm(
                features,
                strides=self.stride if i == 3 else 1,
                dilation=self.dilation,
                activation=nn.relu if self.inner_activation else None,
                depthwise_init=init,
                pointwise_init=init,
                name=f"sep{i}",
                **norm,
            )(x, train)
            outputs.append(x)
        if self.shortcut == "conv":
            project = ConvNorm(
                self.features[-1], strides=self.stride, kernel_init=init, name="shortcut", **norm
            )
            x = x + project(residual, train)
        elif self.shortcut == "sum":
            x = x + residual
        return x, outputs[1]


class Xception65(nn.Module):
    """The backbone: conv1_1, conv1_2, block1..3, unit_1..unit_16, exit1, exit2.

    output_stride 8 or 16 changes strides and dilations only. width multiplies every channel count,
    rounded to multiples of 8.
    """

    output_stride: int = 16
    width: float = 1.0
    norm_eval: bool = True
    momentum: float = 0.9997
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> tuple[jax.Array, jax.Array]:
        """x [B, H, W, 3] in [-1, 1] -> two maps, the finer one first.

        The low-level feature [B, ceil(H / 4), ceil(W / 4), 256 * width], before any ReLU, and
        [B, ceil(H / output_stride), ceil(W / output_stride), 2048 * width], after ReLU.
        """
        if self.output_stride not in _STRIDES:
            raise ValueError(f"output_stride: expected 8 or 16, found {self.output_stride}")
        stride3, dilation, last_dilation = _STRIDES[self.output_stride]
        x = self._stem(x, train)
        x, _ = self._unit("block1", 128, 128, 128, stride=2)(x, train)
        x, low_level = self._unit("block2", 256, 256, 256, stride=2)(x, train)
        x, _ = self._unit("block3", 728, 728, 728, stride=stride3)(x, train)
        for i in range(1, MIDDLE_UNITS + 1):
            middle = self._unit(f"unit_{i}", 728, 728, 728, dilation=dilation, shortcut="sum")
            x, _ = middle(x, train)
        x, _ = self._unit("exit1", 728, 1024, 1024, dilation=dilation)(x, train)
        last = dict(dilation=last_dilation, shortcut="none", inner_activation=True)
        x, _ = self._unit("exit2", 1536, 1536, 2048, **last)(x, train)
        return low_level, x

    def _unit(self, name: str, *features: int, **options: Any) -> nn.Module:
        """An XceptionUnit whose three layers have so many channels at width 1."""
        shared = dict(norm_eval=self.norm_eval, momentum=self.momentum, dtype=self.dtype)
        features = tuple(scaled_channels(n, self.width) for n in features)
        return block(XceptionUnit)(features, **options, **shared, name=name)

    def _stem(self, x: jax.Array, train: bool) -> jax.Array:
        """conv1_1 (stride 2), conv1_2: [B, H, W, 3] -> [B, ceil(H / 2), ceil(W / 2), 64 width]."""
        shared = dict(
            kernel=3,
            activation=nn.relu,
            epsilon=EPSILON,
            momentum=self.momentum,
            norm_eval=self.norm_eval,
            kernel_init=nn.initializers.truncated_normal(0.09),
            dtype=self.dtype,
        )
        first, second = scaled_channels(32, self.width), scaled_channels(64, self.width)
        x = ConvNorm(first, strides=2, name="conv1_1", **shared)(x, train)
        return ConvNorm(second, name="conv1_2", **shared)(x, train)
