"""Channel gates: by the statistics of a map itself (GCT) or by a guidance vector.

GCT: Yang, Zhu, Wu, Yang, "Gated Channel Transformation for Visual Recognition", CVPR 2020, in its
L2 form. The gate by a vector is the instance-level attention of CFBI (ECCV 2020, section 3.3).
Both multiply by 1 + tanh(...), so a gate whose parameters are zero passes everything on.
Glossary: B batch, h w grid, C channels, D length of the vector.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

EPSILON = 1e-5


class GCT(nn.Module):
    """Gated channel transformation: channels compete by their norms. Parameters [C] float32."""

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """x [B, h, w, C] -> the same shape."""
        shape = x.shape[-1:]
        alpha = self.param("alpha", nn.initializers.ones, shape)
        gamma = self.param("gamma", nn.initializers.zeros, shape)
        beta = self.param("beta", nn.initializers.zeros, shape)
        energy = jnp.sum(jnp.square(x.astype(jnp.float32)), axis=(1, 2), keepdims=True)
        embedding = alpha * jnp.sqrt(energy + EPSILON)
        scale = jnp.mean(jnp.square(embedding), axis=-1, keepdims=True) + EPSILON
        gate = 1 + jnp.tanh(embedding * gamma * jax.lax.rsqrt(scale) + beta)
        return (x * gate).astype(self.dtype)


class VectorGate(nn.Module):
    """One linear layer turns the guidance vector into a factor for each channel."""

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, vector: jax.Array) -> jax.Array:
        """x [B, h, w, C], vector [B, D] -> x gated."""
        gate = 1 + jnp.tanh(nn.Dense(x.shape[-1], name="linear")(vector))
        return (x * gate[:, None, None]).astype(self.dtype)
