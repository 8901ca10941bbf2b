"""Convolutional LSTM (Shi et al., NeurIPS 2015) without peepholes, as RSIS and RVOS have it.

The gates are one convolution of several maps laid side by side: what comes from below, and hidden
states of other steps. A convolution is a sum over input channels, so `ConvLSTM` hands out the share
of the kernel that belongs to each map, and what does not depend on the step before is convolved
outside of the recurrence, for all steps at once.

Glossary: h w the grid, C channels of a map, D of the state.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

GATES = 4  # input, forget, output, candidate: the order of the channels of a kernel


class ConvLSTM(nn.Module):
    """The parameters of a cell: kernel [k, k, all C, 4 D] and bias [4 D].

    channels: name -> C of each map that the gates see, in the order of the kernel. Ours: all of
    them count alike in a fresh cell, or a mask would be one channel against hundreds.
    """

    features: int
    channels: Mapping[str, int]
    kernel: int = 3
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self) -> tuple[dict[str, jax.Array], jax.Array]:
        """Kernels [k, k, C, 4 D] by the names of the maps, and the bias, in `dtype`."""
        inputs, outputs = sum(self.channels.values()), GATES * self.features
        shape = (self.kernel, self.kernel, inputs, outputs)
        kernel = self.param("kernel", self._fresh, shape).astype(self.dtype)
        bias = self.param("bias", nn.initializers.zeros, (outputs,)).astype(self.dtype)
        kernels, start = {}, 0
        for name, count in self.channels.items():
            kernels[name] = kernel[:, :, start : start + count]
            start += count
        return kernels, bias

    def _fresh(self, key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        """Normal; the variance of each map's share is 1 / (its fan-in * the number of maps)."""
        counts = np.array([*self.channels.values()])
        fan_in = self.kernel**2 * len(counts) * np.repeat(counts, counts)
        return jax.random.normal(key, shape) / np.sqrt(fan_in, dtype=np.float32)[:, None]


def convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """[..., h, w, C] -> [..., h, w, D] in the dtype of the kernel; zeros around keep the size."""
    found = lax.conv_general_dilated(
        x.reshape(-1, *x.shape[-3:]).astype(kernel.dtype),
        kernel,
        (1, 1),
        [(side // 2, side // 2) for side in kernel.shape[:2]],
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    return found.reshape(*x.shape[:-1], kernel.shape[-1])


def lstm_update(gates: jax.Array, cell: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Hidden state and cell after a step, float32: gates [..., 4 D], cell [..., D].

    c' = f * c + i * g, h = o * tanh(c').
    """
    i, f, o, g = jnp.split(gates.astype(jnp.float32), GATES, axis=-1)
    cell = nn.sigmoid(f) * cell + nn.sigmoid(i) * jnp.tanh(g)
    return nn.sigmoid(o) * jnp.tanh(cell), cell
