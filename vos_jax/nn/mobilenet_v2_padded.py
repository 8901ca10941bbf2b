"""MobileNetV2 as jfzhang95/pytorch-deeplab-xception builds it and CFBI uses it.

It differs from nn.mobilenet_v2 in that a block pads its input before the 1x1 expansion, so that the
depthwise convolution sees the bias of the expansion's norm beyond the border instead of zeros. The
parameter tree is the same.
Glossary: B batch, H W image size.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from vos_jax.nn.mobilenet_v2 import (
    EPSILON,
    InvertedResidual,
    MobileNetV2,
    _inverted_residuals,
    kernel_init,
    scaled,
)
from vos_jax.nn.norm import BatchNorm, ConvNorm
from vos_jax.ops.convolution import conv_general_dilated

_LAST = {"low_level": 3, "mid_level": 6}  # the last layers at stride 4 and 8


class ValidConvNorm(ConvNorm):
    """ConvNorm without padding."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """x [B, H, W, C], already padded."""
        x = nn.Conv(
            self.features,
            (self.kernel, self.kernel),
            strides=self.strides,
            padding=0,
            kernel_dilation=self.dilation,
            feature_group_count=self.groups,
            use_bias=False,
            kernel_init=self.kernel_init,
            dtype=self.dtype,
            conv_general_dilated=conv_general_dilated,
            name="conv",
        )(x)
        norm = BatchNorm(self.epsilon, self.momentum, self.frozen, self.dtype, name="norm")
        return self.activation(norm(x, train))


class PaddedResidual(InvertedResidual):
    """InvertedResidual that pads before it expands."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """x [B, h, w, C] -> [B, ceil(h / stride), ceil(w / stride), features]."""
        shared = dict(
            epsilon=EPSILON,
            momentum=self.momentum,
            frozen=self.frozen,
            dtype=self.dtype,
        )
        first = dict(activation=nn.relu6, kernel_init=kernel_init(self.frozen), **shared)
        border = (self.dilation, self.dilation)
        y = jnp.pad(x, ((0, 0), border, border, (0, 0)))
        if self.expansion != 1:
            hidden = x.shape[-1] * self.expansion
            y = ConvNorm(hidden, name="expand", **first)(y, train)
        y = ValidConvNorm(
            y.shape[-1],
            kernel=3,
            strides=self.stride,
            dilation=self.dilation,
            groups=y.shape[-1],
            name="depthwise",
            **first,
        )(y, train)
        last = kernel_init(self.frozen, linear=True, residual=self.residual)
        y = ConvNorm(self.features, kernel_init=last, name="project", **shared)(y, train)
        return x + y if self.residual else y


class PaddedMobileNetV2(MobileNetV2):
    """The backbone at output stride 16."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> tuple[jax.Array, jax.Array, jax.Array]:
        """x [B, H, W, 3], ImageNet mean and deviation removed -> maps at stride 4, 8 and 16."""
        shared = dict(frozen=self.frozen, momentum=self.momentum, dtype=self.dtype)
        x = ConvNorm(
            scaled(32, self.width),
            kernel=3,
            strides=2,
            activation=nn.relu6,
            epsilon=EPSILON,
            kernel_init=kernel_init(self.frozen),
            name="features_0",
            **shared,
        )(x, train)
        maps = {}
        for i, layer in enumerate(_inverted_residuals(self.width, 16), start=1):
            x = PaddedResidual(**layer, name=f"features_{i}", **shared)(x, train)
            maps[i] = x
        return maps[_LAST["low_level"]], maps[_LAST["mid_level"]], x
