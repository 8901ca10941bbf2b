"""Masks of a fixed grid, drawn into the image at their boxes.

The three rules of `Geometry`: MODERN (torchvision) enlarges mask and box by a border of zeros, cuts
the box to whole pixels and resizes the mask to it; ALIGNED (Detectron2, mmdet from 2.0) samples the
mask at the centre of every pixel; LEGACY (mmdet 0.x) cuts the box to whole pixels, too, the last
ones included, without a border. All are bilinear, so each is a product of the mask with a matrix
for the rows and one for the columns.

Glossary: N masks, m side of their grid, H W the image.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from vos_jax.ops.boxes import Geometry


def paste_masks(
    masks: jax.Array, boxes: jax.Array, size: tuple[int, int], geometry: Geometry
) -> jax.Array:
    """Soft masks of whole images.

    Args:
        masks: probabilities [N, m, m].
        boxes: [N, 4], pixels; may leave the image, LEGACY ones are to be clipped.
        size: (H, W), static.
        geometry: the rule.

    Returns:
        float32 [N, H, W] in 0..1, 0 outside of the box. A mask is what exceeds 1/2 (torchvision:
        and what equals it).
    """
    masks, boxes = jnp.asarray(masks, jnp.float32), jnp.asarray(boxes, jnp.float32)
    if not (geometry.inclusive or geometry.aligned):
        side = masks.shape[1]
        masks = jnp.pad(masks, ((0, 0), (1, 1), (1, 1)))
        half = (boxes[:, 2:] - boxes[:, :2]) / 2 * ((side + 2) / side)
        centre = (boxes[:, 2:] + boxes[:, :2]) / 2
        boxes = jnp.concatenate([centre - half, centre + half], axis=1)
    down, across = (
        _axis_weights(boxes[:, axis], boxes[:, axis + 2], masks.shape[1], size[1 - axis], geometry)
        for axis in (1, 0)
    )
    return jnp.einsum("nhm,nmk,nwk->nhw", down, masks, across, precision=lax.Precision.HIGHEST)


def _axis_weights(first, last, side, pixels, geometry):
    """What each cell of the grid counts in each pixel of an axis, [N, pixels, side]."""
    at = np.arange(pixels, dtype=np.float32)
    cells = np.arange(side, dtype=np.float32)
    first, last = first[:, None], last[:, None]
    if geometry.aligned:
        place = (at + 0.5 - first) / (last - first) * side - 0.5
        inside = (place > -1) & (place < side)  # beyond the grid there are zeros
    else:
        first, last = jnp.trunc(first), jnp.trunc(last)
        length = jnp.maximum(last - first + 1, 1)
        place = jnp.clip((at - first + 0.5) * (side / length) - 0.5, 0, side - 1)
        inside = (at >= first) & (at < first + length)
    place = jnp.where(inside, place, 0)[..., None]
    return jnp.maximum(1 - jnp.abs(place - cells), 0) * inside[..., None]
