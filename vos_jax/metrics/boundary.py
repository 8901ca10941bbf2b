"""Boundary accuracy F: precision and recall of mask outlines within a small tolerance.

F. Perazzi et al., A Benchmark Dataset and Evaluation Methodology for Video Object Segmentation,
CVPR 2016, section 4; the numbers equal those of davis2017-evaluation (dilation by a disk, no
one-to-one matching of outline pixels). Only the common bounding box of both masks is looked at: it
holds every outline pixel, so the counts are those of the whole frame.
"""

import cv2
import numpy as np

from vos_jax.metrics.region import as_masks

TOLERANCE = 0.008  # of the image diagonal (official bound_th)


def boundary_accuracy(
    gt: np.ndarray,
    pred: np.ndarray,
    void: np.ndarray | None = None,
    tolerance: float = TOLERANCE,
) -> float:
    """F of one object in one frame, a float in [0, 1].

    Args:
        gt: [H, W] the true mask, non-zero inside.
        pred: [H, W] the predicted mask, non-zero inside.
        void: [H, W] pixels set to background in both masks first, or None.
        tolerance: fraction of the image diagonal when below 1, else pixels.
    """
    gt, pred = as_masks(gt, pred, void)
    radius = boundary_radius(gt.shape, tolerance)
    window = outline_window(gt | pred)
    if window is None:
        return 1.0
    return f_measure(gt[window], pred[window], radius)


def boundary_radius(shape: tuple[int, int], tolerance: float = TOLERANCE) -> float:
    """Tolerance in pixels for an image of `shape` (H, W); a `tolerance` >= 1 is pixels already."""
    if tolerance >= 1:
        return float(tolerance)
    return float(np.ceil(tolerance * np.linalg.norm(shape)))


def boundary_map(mask: np.ndarray) -> np.ndarray:
    """Outline of a bool mask [H, W] as a bool map of the same size.

    A pixel is on the outline when its right, lower or lower-right neighbour differs. The last row
    looks only right and the last column only down, so the image border itself is no outline.
    """
    b = np.zeros(mask.shape, bool)
    right = mask[:, :-1] ^ mask[:, 1:]
    b[:, :-1] = right
    b[:-1] |= mask[:-1] ^ mask[1:]
    b[:-1, :-1] |= mask[:-1, :-1] ^ mask[1:, 1:]
    return b


def disk(radius: float) -> np.ndarray:
    """The structuring element x^2 + y^2 <= radius^2 as uint8 [2 radius + 1, 2 radius + 1]."""
    reach = np.arange(-int(radius), int(radius) + 1)
    return (reach[:, None] ** 2 + reach[None] ** 2 <= radius**2).astype(np.uint8)


def outline_window(mask: np.ndarray) -> tuple[slice, slice] | None:
    """Rows and columns with every outline pixel of any mask inside `mask`; None if it is empty.

    One pixel of margin on each side: the outline lies above and to the left of the mask, and an
    empty row below lets `boundary_map` treat the window's edge as the inside of the image.
    """
    x, y, width, height = cv2.boundingRect(mask.view(np.uint8))
    if width == 0:
        return None
    return slice(max(y - 1, 0), y + height + 1), slice(max(x - 1, 0), x + width + 1)


def f_measure(gt: np.ndarray, pred: np.ndarray, radius: float) -> float:
    """F of two bool masks [H, W] whose outlines may lie `radius` pixels apart."""
    gt_outline, pred_outline = boundary_map(gt), boundary_map(pred)
    gt_length, pred_length = np.count_nonzero(gt_outline), np.count_nonzero(pred_outline)
    if gt_length == 0 or pred_length == 0:
        return float(gt_length == pred_length)
    kernel = disk(radius)
    precision = np.count_nonzero(pred_outline & dilate(gt_outline, kernel)) / pred_length
    recall = np.count_nonzero(gt_outline & dilate(pred_outline, kernel)) / gt_length
    if precision + recall == 0:
        return 0.0
    return 2 * precision * recall / (precision + recall)


def dilate(outline: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Dilation of a bool map [H, W] by a structuring element; outside the map counts as False."""
    return cv2.dilate(outline.view(np.uint8), kernel).view(bool)
