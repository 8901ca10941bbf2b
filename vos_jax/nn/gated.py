"""Channel gates: by the statistics of a map itself (GCT) or by a guidance vector.

GCT: Yang, Zhu, Wu, Yang, "Gated Channel Transformation for Visual Recognition", CVPR 2020, in its
L2 form. The gate by a vector is the instance-level attention of CFBI (ECCV 2020, section 3.3).
Both multiply by 1 + tanh(...), so a gate whose parameters are zero passes everything on. The
modules give the factors; a 1x1 convolution takes them into its weights (nn.group_norm) and spares
the product's map.
Glossary: B batch, h w grid, C channels, D length of the vector.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

EPSILON = 1e-5


class GCT(nn.Module):
    """Gated channel transformation: channels compete by their norms. Parameters [C] float32."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """The factor of each channel of x [B, h, w, C], float32 [B, C]."""
        shape = x.shape[-1:]
        alpha = self.param("alpha", nn.initializers.ones, shape)
        gamma = self.param("gamma", nn.initializers.zeros, shape)
        beta = self.param("beta", nn.initializers.zeros, shape)
        energy = jnp.sum(jnp.square(x.astype(jnp.float32)), axis=(1, 2))
        embedding = alpha * jnp.sqrt(energy + EPSILON)
        scale = jnp.mean(jnp.square(embedding), axis=-1, keepdims=True) + EPSILON
        return 1 + jnp.tanh(embedding * gamma * jax.lax.rsqrt(scale) + beta)


class VectorGate(nn.Module):
    """One linear layer turns the guidance vector into a factor for each of `channels`."""

    channels: int

    @nn.compact
    def __call__(self, vector: jax.Array) -> jax.Array:
        """vector [B, D] -> factors float32 [B, channels]."""
        return 1 + jnp.tanh(nn.Dense(self.channels, name="linear")(vector))


def gated(x: jax.Array, gate: jax.Array) -> jax.Array:
    """x [B, h, w, C] times gate [B, C], in the dtype of x."""
    return (x * gate[:, None, None]).astype(x.dtype)
