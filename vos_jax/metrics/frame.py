"""J and F of all objects of one frame, straight from label maps.

`frame_scores` compares objects of equal ids, `pair_scores` every proposal with every object.
Everything per mask happens inside its bounding box, and outlines are dilated once per mask, which
makes 480p frames cost a few milliseconds with the exact numbers of the official tools.
"""

from collections.abc import Sequence

import numpy as np

from vos_jax.metrics.boundary import (
    boundary_map,
    boundary_radius,
    dilate,
    disk,
    f_measure,
    outline_window,
)
from vos_jax.metrics.region import check_same_shape, overlap_ratio


def frame_scores(
    gt_labels: np.ndarray,
    pred_labels: np.ndarray,
    ids: Sequence[int],
    void: np.ndarray | None = None,
    boundaries: bool = True,
) -> tuple[np.ndarray, np.ndarray]:
    """J and F of every object of one frame.

    Args:
        gt_labels: [H, W] integer label map; 255 belongs to no object.
        pred_labels: [H, W] integer label map.
        ids: [K] the labels to score, each 1..254.
        void: [H, W] non-zero where pixels do not count. None scores the semi-supervised way, where
            void pixels of the ground truth are background.
        boundaries: False leaves F out (NaN), which is most of the work.

    Returns:
        J [K] and F [K], float64 in [0, 1].
    """
    gt_labels, pred_labels = np.asarray(gt_labels), np.asarray(pred_labels)
    check_same_shape(gt_labels, pred_labels, void)
    check_ids(ids)
    radius = boundary_radius(gt_labels.shape)
    keep = None if void is None else np.asarray(void) == 0
    j, f = np.ones(len(ids)), np.full(len(ids), 1.0 if boundaries else np.nan)
    for k, label in enumerate(ids):
        gt, pred = gt_labels == label, pred_labels == label
        if keep is not None:
            gt, pred = gt & keep, pred & keep
        window = outline_window(gt | pred)
        if window is not None:
            gt, pred = gt[window], pred[window]
            j[k] = overlap_ratio(gt, pred)
            if boundaries:
                f[k] = f_measure(gt, pred, radius)
    return j, f


def pair_scores(
    gt_labels: np.ndarray,
    pred_labels: np.ndarray,
    gt_ids: Sequence[int],
    pred_ids: Sequence[int],
    void: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """J and F of every pair of a predicted and a true mask of one frame, for matching them.

    Arguments are those of `frame_scores`, with ids [P] of the prediction and [K] of the truth; an
    id that no pixel has stands for an empty mask. Returns J and F, float64 [P, K].
    """
    gt_labels, pred_labels = np.asarray(gt_labels), np.asarray(pred_labels)
    check_same_shape(gt_labels, pred_labels, void)
    check_ids(gt_ids)
    check_ids(pred_ids)
    if void is not None:
        keep = np.asarray(void) == 0
        gt_labels, pred_labels = gt_labels * keep, pred_labels * keep
    counts = np.bincount(
        pred_labels.ravel().astype(np.int64) * 256 + gt_labels.ravel(), minlength=256 * 256
    ).reshape(256, 256)
    shared = counts[np.ix_(pred_ids, gt_ids)]
    union = counts[pred_ids].sum(axis=1)[:, None] + counts[:, gt_ids].sum(axis=0) - shared
    j = np.where(union > 0, shared / np.maximum(union, 1), 1.0)

    kernel = disk(boundary_radius(gt_labels.shape))
    gt_outlines, gt_zones = _outlines(gt_labels, gt_ids, kernel)
    pred_outlines, pred_zones = _outlines(pred_labels, pred_ids, kernel)
    precision = np.array([_hit_rates(outline, gt_zones) for outline in pred_outlines])
    recall = np.array([_hit_rates(outline, pred_zones) for outline in gt_outlines]).T
    shape = (len(pred_ids), len(gt_ids))
    return j, _f_of_pairs(precision.reshape(shape), recall.reshape(shape))


def _outlines(
    labels: np.ndarray, ids: Sequence[int], kernel: np.ndarray
) -> tuple[list[np.ndarray], np.ndarray]:
    """Of every id the outline's flat pixel indices, and bool [N, H * W] the dilated outlines."""
    reach = kernel.shape[0] // 2
    height, width = labels.shape
    outlines, zones = [], np.zeros((len(ids), height, width), bool)
    for zone, label in zip(zones, ids, strict=True):
        window = outline_window(labels == label)
        if window is None:
            outlines.append(np.zeros(0, np.int64))
            continue
        rows, columns = window
        outline = boundary_map(labels[window] == label)
        y, x = np.nonzero(outline)
        outlines.append((y + rows.start) * width + x + columns.start)
        zone[window] = outline
        grown = tuple(slice(max(s.start - reach, 0), s.stop + reach) for s in window)
        zone[grown] = dilate(zone[grown], kernel)
    return outlines, zones.reshape(len(ids), -1)


def _hit_rates(outline: np.ndarray, zones: np.ndarray) -> np.ndarray:
    """[N] share of an outline's pixels inside each zone; NaN for an outline without pixels."""
    if outline.size == 0:
        return np.full(len(zones), np.nan)
    return np.count_nonzero(zones[:, outline], axis=1) / outline.size


def _f_of_pairs(precision: np.ndarray, recall: np.ndarray) -> np.ndarray:
    """Harmonic mean; 1 where both outlines are empty (both NaN), 0 where one is or both are 0."""
    one_empty = np.isnan(precision) | np.isnan(recall)
    total = np.where(one_empty, 0.0, precision + recall)
    f = np.where(total > 0, 2 * precision * recall / np.where(total > 0, total, 1.0), 0.0)
    return np.where(np.isnan(precision) & np.isnan(recall), 1.0, f)


def check_ids(ids: Sequence[int]) -> None:
    """Raises ValueError when a label cannot be an object (0 is background, 255 void)."""
    wrong = [int(label) for label in ids if not 1 <= label <= 254]
    if wrong:
        raise ValueError(f"objects have ids 1..254, found {wrong} (0 is background, 255 is void)")
