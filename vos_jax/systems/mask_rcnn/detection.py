"""From what the heads say to proposals and detections, of one image; shapes are fixed.

Faster R-CNN (Ren et al., NIPS 2015) with a feature pyramid (Lin et al., CVPR 2017). What
torchvision and mmdet 0.x do differently follows from the geometry: mmdet suppresses in pixels of
the original image, where its inclusive widths give other overlaps, torchvision in those of the
canvas; and torchvision drops boxes without area.

Glossary: A anchors of all levels, P proposals, K classes with the background first, D detections.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from vos_jax.ops.anchors import cell_anchors, grid_anchors
from vos_jax.ops.boxes import Geometry, clip, decode, sizes
from vos_jax.ops.nms import best_boxes

RATIOS = (0.5, 1.0, 2.0)
PROPOSAL_WEIGHTS, BOX_WEIGHTS = (1.0, 1.0, 1.0, 1.0), (10.0, 10.0, 5.0, 5.0)
_SMALLEST_PROPOSAL, _SMALLEST_DETECTION = 1e-3, 1e-2  # sides in torchvision


def pyramid_anchors(
    grids: Sequence[tuple[int, int]], anchor_size: float, geometry: Geometry
) -> list[np.ndarray]:
    """The anchors of each level, float32 [h w A, 4]: strides 4, 8, ..., one size for each.

    anchor_size: square root of an anchor's area, in strides. torchvision's steps between cells are
    those of the canvas divided by the grid, less than the stride where a last map has odd sides.
    """
    canvas, found = np.multiply(grids[0], 4), []
    for level, grid in enumerate(grids):
        stride = 4 * 2**level
        steps = (stride, stride) if geometry.inclusive else tuple(canvas // grid)
        cell = cell_anchors([anchor_size * stride], RATIOS, stride, geometry)
        found.append(grid_anchors(cell, grid, steps))
    return found


def propose(
    logits: jax.Array,
    deltas: jax.Array,
    anchors: Sequence[np.ndarray],
    size: jax.Array,
    pre_nms: int,
    post_nms: int,
    threshold: float,
    geometry: Geometry,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The best boxes of an image, whatever they hold.

    Args:
        logits: [A] of all levels, one after the other; deltas: [A, 4].
        anchors: of each level.
        size: [2], of the frame on the canvas.
        pre_nms: candidates of each level; post_nms: P, boxes of all levels together.
        threshold: of suppression, level by level.

    Returns:
        boxes [P, 4] on the canvas, logits [P] and valid bool [P], best first.
    """
    boxes, scores, levels, begin = [], [], [], 0
    for level, of_level in enumerate(anchors):
        # logits, not probabilities: those near 1 are equal in float32
        best, index = jax.lax.top_k(
            logits[begin : begin + len(of_level)], min(pre_nms, len(of_level))
        )
        moved = deltas[begin : begin + len(of_level)][index]
        found = decode(jnp.asarray(of_level)[index], moved, PROPOSAL_WEIGHTS, geometry)
        boxes.append(clip(found, size, geometry))
        scores.append(best)
        levels.append(np.full(len(best), level))
        begin += len(of_level)
    boxes, scores, levels = jnp.concatenate(boxes), jnp.concatenate(scores), np.concatenate(levels)
    valid = _large(boxes, _SMALLEST_PROPOSAL, geometry)
    index, valid = best_boxes(boxes, scores, valid, threshold, post_nms, geometry, levels)
    return jax.lax.stop_gradient((boxes[index], scores[index], valid))


def select(
    proposals: jax.Array,
    valid: jax.Array,
    logits: jax.Array,
    deltas: jax.Array,
    size: jax.Array,
    scale: jax.Array,
    score_threshold: float,
    nms_threshold: float,
    most: int,
    geometry: Geometry,
) -> dict[str, jax.Array]:
    """The detections of an image.

    Args:
        proposals: [P, 4] on the canvas; valid: bool [P].
        logits: [P, K]; deltas: [P, K, 4].
        size, scale: [2] as in `Inputs`.
        most: D.

    Returns:
        placed [D, 4] (boxes on the canvas), boxes (in the original frame), scores, classes,
        probabilities and valid, as `Detections` has them. The box of an unused slot is one pixel.
    """
    probabilities = jax.nn.softmax(logits)
    placed = decode(proposals[:, None], deltas[:, 1:], BOX_WEIGHTS, geometry)
    placed = clip(placed, size, geometry)
    original = placed / jnp.tile(scale[::-1], 2)
    count, classes = placed.shape[:2]
    scores = probabilities[:, 1:]
    candidates = valid[:, None] & (scores > score_threshold)
    candidates &= _large(placed, _SMALLEST_DETECTION, geometry)
    index, found = best_boxes(
        (original if geometry.inclusive else placed).reshape(-1, 4),
        scores.ravel(),
        candidates.ravel(),
        nms_threshold,
        most,
        geometry,
        jnp.tile(jnp.arange(classes), count),
    )
    pixel = jnp.array([0.0, 0.0, 1.0, 1.0])
    return {
        "placed": jnp.where(found[:, None], placed.reshape(-1, 4)[index], pixel),
        "boxes": jnp.where(found[:, None], original.reshape(-1, 4)[index], pixel),
        "scores": jnp.where(found, scores.ravel()[index], 0.0),
        "classes": jnp.where(found, index % classes, 0).astype(jnp.int32),
        "probabilities": jnp.where(found[:, None], probabilities[index // classes], 0.0),
        "valid": found,
    }


def _large(boxes, side, geometry):
    """Whether both sides are that long; every inclusive box is a pixel at least."""
    return jnp.all(sizes(boxes, geometry) >= side, axis=-1) | geometry.inclusive
