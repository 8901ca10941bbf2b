"""Anchors: the boxes that a region proposal network starts from, the same in every image.

Ren et al., "Faster R-CNN", NIPS 2015, with one size for each level of a feature pyramid (Lin et
al., CVPR 2017). They depend on shapes alone and are numpy arrays, constants of a program.
"""

from collections.abc import Sequence

import numpy as np

from vos_jax.ops.boxes import Geometry


def cell_anchors(
    sizes: Sequence[float], ratios: Sequence[float], stride: int, geometry: Geometry
) -> np.ndarray:
    """The anchors of the first cell, float32 [R * S, 4], all sizes of one ratio together.

    Args:
        sizes: S square roots of areas, pixels.
        ratios: R ratios height / width.
        stride: pixels between cells; matters where geometry.centre is not 0.
        geometry: the convention; rounding is half to even.
    """
    root = np.sqrt(np.asarray(ratios, np.float32))[:, None]
    sides = np.float32(sizes)
    width, height = (1 / root * sides).ravel(), (root * sides).ravel()
    half = np.stack([width, height], axis=1) / 2 - np.float32(geometry.extent / 2)
    centre = np.float32(geometry.centre * (stride - 1))
    anchors = np.concatenate([centre - half, centre + half], axis=1)
    return np.round(anchors) if geometry.round else anchors


def grid_anchors(cell: np.ndarray, grid: tuple[int, int], strides: tuple[int, int]) -> np.ndarray:
    """The anchors of a whole map, float32 [h * w * A, 4]: by row, then column, then anchor.

    Args:
        cell: those of the first cell [A, 4].
        grid: (h, w), cells of the map.
        strides: pixels from cell to cell, down and across.
    """
    y, x = (np.arange(n) * stride for n, stride in zip(grid, strides, strict=True))
    shifts = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 1, 2)
    return (cell + np.tile(shifts, 2)).reshape(-1, 4).astype(np.float32)
