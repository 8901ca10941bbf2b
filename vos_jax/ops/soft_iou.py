"""Soft intersection over union, which MaskProp trains with and links clips by.

Bertasius and Torresani, "Classifying, Segmenting, and Tracking Object Instances in Video with Mask
Propagation" (MaskProp), CVPR 2020, sections 3.3 and 3.4:

    sIoU(A, B) = sum_p A B / sum_p (A + B - A B)

Without any mass it is 0, as is its gradient. Less than 1e-12 pixels count as none: the gradient of
the ratio has the square of the mass below it, which float32 cannot hold. RVOS's
`ops.losses.soft_iou_costs` adds a constant.
"""

import jax
import jax.numpy as jnp

from vos_jax.ops.assignment import intersections

NO_MASS = 1e-12  # pixels


def soft_iou(a: jax.Array, b: jax.Array) -> jax.Array:
    """sIoU of masks [..., H, W] in 0..1 and their partners of the same shape: float32 [...]."""
    a, b = (jnp.asarray(x, jnp.float32) for x in (a, b))
    both = (a * b).sum(axis=(-2, -1))
    return _ratio(both, (a + b - a * b).sum(axis=(-2, -1)))


def soft_ious(a: jax.Array, b: jax.Array) -> jax.Array:
    """sIoU of every pair: [..., M, H, W], [..., K, H, W] -> float32 [..., M, K]."""
    both = intersections(jnp.asarray(a), jnp.asarray(b))
    mass_a, mass_b = (jnp.asarray(x, jnp.float32).sum(axis=(-2, -1)) for x in (a, b))
    return _ratio(both, mass_a[..., :, None] + mass_b[..., None, :] - both)


def _ratio(both, either):
    some = either > NO_MASS
    return jnp.where(some, both / jnp.where(some, either, 1.0), 0.0)
