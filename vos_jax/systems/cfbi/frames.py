"""Frames in CFBI and CFBI+: their size, what is kept of them, labels on the embeddings' grids.

Glossary: B videos, L labels, hs ws the grid at stride s, C embedding channels, P reference pixels.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from vos_jax.ops.collaborative import LabelSums
from vos_jax.ops.resize import resize_nearest


@struct.dataclass
class Features:
    """One frame. The tuples have an entry per scale."""

    embeddings: tuple[jax.Array, ...]  # [B, hs, ws, C]
    low_level: jax.Array  # [B, h4, w4, 256], of the backbone


@struct.dataclass
class Memory:
    """What the next frame may look at. The tuples have an entry per scale."""

    reference: tuple[jax.Array, ...]  # [B, P, channels that are matched]
    reference_labels: tuple[jax.Array, ...]  # int32 [B, P], -1: not used
    frames: jax.Array  # int32 [], how many reference frames fill the P
    reference_sums: LabelSums  # of the finest embedding
    present: jax.Array  # bool [B, L]
    previous: tuple[jax.Array, ...]  # [B, hs, ws, C]
    previous_labels: tuple[jax.Array, ...]  # int32 [B, hs, ws], -1: void


def network_size(
    size: tuple[int, int], max_long_edge: int, short_side: int = 0, scale: float = 1.0
) -> tuple[int, int]:
    """Height and width at which a frame of `size` is looked at: 16 n + 1 each.

    The frame is shrunk until its longer side is max_long_edge (and, unless 0, its shorter side
    short_side) at most, then scaled, then each side rounded on its own, half to even.
    """
    shrink = min(1.0, max_long_edge / max(size))
    if short_side:
        shrink = min(shrink, short_side / min(size))
    sides = [int(shrink * n * scale) for n in size]
    return tuple(int(np.around((n - 1) / 16) * 16 + 1) for n in sides)


def labels_at_scales(masks: jax.Array, features: Features) -> tuple[jax.Array, ...]:
    """Labels int32 [B, hs, ws] of masks [B, L, H, W] on the grid of each embedding; void is -1."""
    found = []
    for embedding in features.embeddings:
        small = resize_nearest(masks, embedding.shape[1:3], axes=(2, 3), align_corners=False)
        label = jnp.argmax(small, axis=1).astype(jnp.int32)
        found.append(jnp.where(small.sum(axis=1) > 0, label, -1))
    return tuple(found)


def merge_labels(x: jax.Array) -> jax.Array:
    """[B, L, ...] -> [B * L, ...]: the labels of all videos are the head's batch."""
    return x.reshape(-1, *x.shape[2:])
