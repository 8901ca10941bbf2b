"""Convolution with group normalisation, which knows neither batch statistics nor training.

Wu, He, "Group Normalization", ECCV 2018. Glossary: B batch, h w grid; features are [B, h, w, C].
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vos_jax.nn.gated import gated
from vos_jax.ops.convolution import conv_general_dilated, convolve_gated

kernel_init = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


def group_norm(groups: int, name: str, dtype: Any = jnp.float32) -> nn.GroupNorm:
    """GroupNorm as in PyTorch: epsilon 1e-5, the variance as the mean squared deviation."""
    return nn.GroupNorm(groups, epsilon=1e-5, use_fast_variance=False, dtype=dtype, name=name)


class ConvGroupNorm(nn.Module):
    """Convolution, GroupNorm, optional activation.

    The padding is explicit, dilation * (kernel - 1) / 2 on each side: the output has
    ceil(n / strides) rows. depthwise: one kernel per channel, features must be the input's.
    Parameters: conv/kernel (HWIO), conv/bias with use_bias, norm/{scale, bias}.
    """

    features: int
    kernel: int = 1
    strides: int = 1
    dilation: int = 1
    depthwise: bool = False
    groups: int = 32
    use_bias: bool = False
    activation: Callable[[jax.Array], jax.Array] | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, gate: jax.Array | None = None) -> jax.Array:
        """x [B, h, w, C] -> [B, ceil(h / strides), ceil(w / strides), features].

        gate: float [B, C], a factor of each channel of x.
        """
        x = group_norm(self.groups, "norm", self.dtype)(self._convolve(x, gate))
        return x if self.activation is None else self.activation(x)

    def _convolve(self, x: jax.Array, gate: jax.Array | None) -> jax.Array:
        convolve = conv_general_dilated
        if gate is not None and self.kernel == 1 and not self.depthwise:
            convolve = partial(convolve_gated, gate=gate)
        elif gate is not None:
            x = gated(x, gate)
        return nn.Conv(
            self.features,
            (self.kernel, self.kernel),
            strides=self.strides,
            padding=self.dilation * (self.kernel - 1) // 2,
            kernel_dilation=self.dilation,
            feature_group_count=x.shape[-1] if self.depthwise else 1,
            use_bias=self.use_bias,
            kernel_init=kernel_init,
            dtype=self.dtype,
            conv_general_dilated=convolve,
            name="conv",
        )(x)
