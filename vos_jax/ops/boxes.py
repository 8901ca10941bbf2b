"""Boxes: overlap, coding relative to other boxes, clipping; and the conventions that they follow.

A box is (x1, y1, x2, y2). Detectors agree on the formulas and disagree on what a corner is, and
imported weights are right only under the convention that they were trained with. A `Geometry` is
such a convention, a value that every operation here and in anchors, nms, roi_align, mask_targets
and paste takes:

    MODERN   torchvision: corners are continuous, the width is x2 - x1; anchors are rounded;
             RoIAlign has no half-pixel shift, and an RoI is at least one cell wide
    ALIGNED  Detectron2 and mmdet from 2.0: continuous, too, with anchors as they are and pixel
             centres at half-integers in RoIAlign and in pasting
    LEGACY   mmdet 0.x and MaskTrack R-CNN: corners are the first and the last pixel of the box, so
             the width is x2 - x1 + 1

The coding is that of Girshick et al., CVPR 2014 (R-CNN), with the weights of Fast R-CNN's code.

Deviations: an IoU without any area is 0 (0 / 0 there); `encode` takes widths of a thousandth of a
pixel at least, so that slots which hold no box give finite numbers.

Glossary: N, M boxes; "..." any leading axes.
"""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

LARGEST = math.log(1000 / 16)  # of a coded size; beyond it exp overflows before training settles
_NARROWEST = 1e-3


@dataclass(frozen=True)
class Geometry:
    """What the corners of a box mean.

    Attributes:
        inclusive: corners are pixels that belong to the box: the width is x2 - x1 + 1, a box ends
            at W - 1, and decoding bounds shrinking as it bounds growing.
        aligned: pixel i has its centre at i + 1/2 where features and masks are sampled.
        min_size: smallest side of an RoI, in cells of the feature map.
        round: whether the corners of anchors are rounded.
        centre: where the anchors of the first cell are centred, as a share of stride - 1.
    """

    inclusive: bool = False
    aligned: bool = False
    min_size: float = 1.0
    round: bool = True
    centre: float = 0.0

    @property
    def extent(self) -> int:
        """What a width has more than x2 - x1."""
        return int(self.inclusive)


MODERN = Geometry()
ALIGNED = Geometry(aligned=True, min_size=-math.inf, round=False)
LEGACY = Geometry(inclusive=True, min_size=0.0, centre=0.5)
GEOMETRIES = {"modern": MODERN, "aligned": ALIGNED, "legacy": LEGACY}


def sizes(boxes: jax.Array, geometry: Geometry) -> jax.Array:
    """Widths and heights [..., 2] of boxes [..., 4]."""
    return boxes[..., 2:] - boxes[..., :2] + geometry.extent


def areas(boxes: jax.Array, geometry: Geometry) -> jax.Array:
    """Areas [...] of boxes [..., 4]."""
    return jnp.prod(sizes(boxes, geometry), axis=-1)


def iou(first: jax.Array, second: jax.Array, geometry: Geometry) -> jax.Array:
    """Intersection over union of every pair: [..., N, 4], [..., M, 4] -> [..., N, M]."""
    first, second = first[..., :, None, :], second[..., None, :, :]
    corners = (
        jnp.maximum(first[..., :2], second[..., :2]),
        jnp.minimum(first[..., 2:], second[..., 2:]),
    )
    both = jnp.prod(jnp.maximum(corners[1] - corners[0] + geometry.extent, 0), axis=-1)
    either = areas(first, geometry) + areas(second, geometry) - both
    return jnp.where(either > 0, both / jnp.where(either > 0, either, 1), 0.0)


def encode(
    references: jax.Array, boxes: jax.Array, weights: tuple[float, ...], geometry: Geometry
) -> jax.Array:
    """Boxes as deltas (dx, dy, dw, dh) from references, both [..., 4].

    weights: what the deltas are multiplied by, (1, 1, 1, 1) for proposals and (10, 10, 5, 5) for
    detections in every release; the standard deviations of mmdet are their inverses.
    """
    reference_sizes = jnp.maximum(sizes(references, geometry), _NARROWEST)
    box_sizes = jnp.maximum(sizes(boxes, geometry), _NARROWEST)
    moved = (_centres(boxes) - _centres(references)) / reference_sizes
    deltas = jnp.concatenate([moved, jnp.log(box_sizes / reference_sizes)], axis=-1)
    return deltas * np.float32(weights)


def decode(
    references: jax.Array, deltas: jax.Array, weights: tuple[float, ...], geometry: Geometry
) -> jax.Array:
    """Boxes [..., 4] of deltas [..., 4] from references [..., 4]; the inverse of `encode`.

    For deltas of each class, [N, K, 4], give references [N, 1, 4]. Boxes may leave the image: see
    `clip`.
    """
    deltas = deltas / np.float32(weights)
    reference_sizes = sizes(references, geometry)
    smallest = -LARGEST if geometry.inclusive else -math.inf
    growth = jnp.exp(jnp.clip(deltas[..., 2:], smallest, LARGEST))
    centres = _centres(references) + deltas[..., :2] * reference_sizes
    half = (reference_sizes * growth - geometry.extent) / 2
    return jnp.concatenate([centres - half, centres + half], axis=-1)


def clip(boxes: jax.Array, size: jax.Array | tuple[int, int], geometry: Geometry) -> jax.Array:
    """Boxes [..., 4] cut at the border of an image of size (height, width), which may be traced."""
    height, width = size[0] - geometry.extent, size[1] - geometry.extent
    return jnp.clip(boxes, 0, jnp.stack([jnp.float32(x) for x in (width, height) * 2]))


def _centres(boxes):
    return (boxes[..., :2] + boxes[..., 2:]) / 2
