"""From independent soft maps to one label per pixel: objects are painted over each other.

Released code of RVOS (Ventura et al., CVPR 2019), prepare_results_submission*.py: each object's
mask is what is above 1/2; objects are painted in the order of their first-frame cost, the worst
first, so that the one which was found best wins where masks overlap.

Glossary: B videos, N objects, h w pixels.
"""

import jax
import jax.numpy as jnp

THRESHOLD = 0.5


def ranks(cost: jax.Array) -> jax.Array:
    """Place of each object from the top, int32 [B, N]; of equal ones the first lies on top."""
    return jnp.argsort(jnp.argsort(cost, axis=1, stable=True), axis=1)


def painted_labels(maps: jax.Array, cost: jax.Array) -> jax.Array:
    """Labels int32 [B, h, w], 0 background, of maps [B, N, h, w] and costs [B, N]."""
    height = maps.shape[1] - ranks(cost)[..., None, None]
    over = jnp.where(maps > THRESHOLD, height, 0)
    return jnp.where(over.any(axis=1), over.argmax(axis=1) + 1, 0)


def visible_probabilities(maps: jax.Array, cost: jax.Array) -> jax.Array:
    """Probabilities [B, N+1, h, w], background first, whose largest channel is the painted label.

    An object is as probable as its map says, and not more than that nothing painted over it is
    there: min(p, 1 - max of those above). The background is what no object claims, 1 - max p.
    """
    rank = ranks(cost)
    order = jnp.argsort(rank, axis=1)[..., None, None]
    sorted_maps = jnp.take_along_axis(maps, order, axis=1)
    highest = jax.lax.cummax(sorted_maps, axis=1)
    above = jnp.concatenate([jnp.zeros_like(highest[:, :1]), highest[:, :-1]], axis=1)
    visible = jnp.minimum(sorted_maps, 1 - above)
    objects = jnp.take_along_axis(visible, rank[..., None, None], axis=1)
    return jnp.concatenate([1 - highest[:, -1:], objects], axis=1)
