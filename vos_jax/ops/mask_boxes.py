"""Boxes around masks: corners x1 y1 x2 y2 in pixels, of one pixel x, y, x + 1, y + 1."""

import jax
import jax.numpy as jnp


def boxes_around(masks: jax.Array) -> jax.Array:
    """The smallest box that holds each mask: bool [..., H, W] -> float32 [..., 4]; empty: 0."""
    columns, rows = masks.any(axis=-2), masks.any(axis=-1)
    sides = []
    for there in (columns, rows):
        first = jnp.argmax(there, axis=-1)
        last = there.shape[-1] - jnp.argmax(there[..., ::-1], axis=-1)
        sides.append((first, jnp.where(there.any(axis=-1), last, 0)))
    (left, right), (top, bottom) = sides
    return jnp.stack([left, top, right, bottom], axis=-1).astype(jnp.float32)
