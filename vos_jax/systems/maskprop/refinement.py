"""High-resolution masks: what the mask head says of a box, seen together with its pixels.

Bertasius and Torresani, CVPR 2020, section 3.5. Three residual blocks look at a patch of the frame,
three at the mask enlarged to it; their product goes through three more, and a 1x1 convolution
makes the mask. The paper takes a patch of 384 pixels around the centre of a box, whatever the box.
Ours is the box itself, resampled to `side` pixels: a mask stays what it is elsewhere, a grid inside
of its box; an object of any size is seen as a whole, and the side says what it costs.

Glossary: M boxes, m side of the mask head's grid, s that of the refined one.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vos_jax.nn.remat import block
from vos_jax.systems.maskprop.branch import ResidualBlock

DEPTH = 3


class Refinement(nn.Module):
    """Finer masks; channels: of all blocks."""

    channels: int = 128
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, patches: jax.Array, logits: jax.Array) -> jax.Array:
        """patches [M, s, s, 3], normalised, and logits [M, m, m] -> logits float32 [M, s, s]."""
        shape = (*patches.shape[:3], 1)
        masks = jax.image.resize(logits[..., None], shape, "bilinear")
        x = self._blocks(patches, "patch") * self._blocks(masks, "mask")
        x = self._blocks(x, "both").astype(jnp.float32)
        return nn.Conv(1, (1, 1), name="logits")(x)[..., 0]

    def _blocks(self, x, name):
        x = x.astype(self.dtype)
        for i in range(DEPTH):
            module = block(ResidualBlock)(self.channels, dtype=self.dtype, name=f"{name}{i}")
            x = module(x)
        return x
