"""The convolution with which a decoder merges a coarse map and a fine one.

Glossary: B batch, h w the coarse grid, H W the fine one.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vos_jax.ops.convolution import conv_general_dilated
from vos_jax.ops.resized_convolution import convolve_resized


class MergingConv(nn.Module):
    """Convolution of the coarse map, enlarged, and the fine one side by side.

    Parameters are those of nn.Conv on both, the coarse one first: kernel [k, k, Ca + Cb, features].
    resize: "bilinear" or "bicubic", corners kept (ops.resize).
    """

    features: int
    kernel: int = 3
    resize: str = "bilinear"
    kernel_init: Callable[..., jax.Array] = nn.initializers.lecun_normal()
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, coarse: jax.Array, fine: jax.Array) -> jax.Array:
        """coarse [B, h, w, Ca], fine [B, H, W, Cb] -> [B, H, W, features]."""
        split = coarse.shape[-1]
        shape = (self.kernel, self.kernel, split + fine.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape).astype(self.dtype)
        coarse, fine = coarse.astype(self.dtype), fine.astype(self.dtype)
        y = convolve_resized(coarse, kernel[:, :, :split], fine.shape[1:3], self.resize)
        y += conv_general_dilated(
            fine,
            kernel[:, :, split:],
            (1, 1),
            ((self.kernel // 2,) * 2,) * 2,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        return y.astype(self.dtype)
