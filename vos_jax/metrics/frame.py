"""J and F of all objects of one frame, straight from label maps.

Everything per object happens inside the bounding box of its true and predicted mask, which makes
480p frames cost a few milliseconds with the exact numbers of the official tools.
"""

from collections.abc import Sequence

import numpy as np

from vos_jax.metrics.boundary import TOLERANCE, boundary_radius, f_measure, outline_window
from vos_jax.metrics.region import check_same_shape, overlap_ratio


def frame_scores(
    gt_labels: np.ndarray,
    pred_labels: np.ndarray,
    ids: Sequence[int],
    void: np.ndarray | None = None,
    tolerance: float = TOLERANCE,
) -> tuple[np.ndarray, np.ndarray]:
    """J and F of every object of one frame.

    Args:
      gt_labels: [H, W] integer label map; 255 belongs to no object.
      pred_labels: [H, W] integer label map.
      ids: [K] the labels to score, each 1..254.
      void: [H, W] non-zero where pixels do not count. None scores the semi-supervised way, where
        void pixels of the ground truth are background.
      tolerance: of the boundary measure, see `boundary_radius`.

    Returns:
      J [K] and F [K], float64 in [0, 1].
    """
    gt_labels, pred_labels = np.asarray(gt_labels), np.asarray(pred_labels)
    check_same_shape(gt_labels, pred_labels, void)
    check_ids(ids)
    radius = boundary_radius(gt_labels.shape, tolerance)
    keep = None if void is None else np.asarray(void) == 0
    j, f = np.ones(len(ids)), np.ones(len(ids))
    for k, label in enumerate(ids):
        gt, pred = gt_labels == label, pred_labels == label
        if keep is not None:
            gt, pred = gt & keep, pred & keep
        window = outline_window(gt | pred)
        if window is not None:
            gt, pred = gt[window], pred[window]
            j[k] = overlap_ratio(gt, pred)
            f[k] = f_measure(gt, pred, radius)
    return j, f


def check_ids(ids: Sequence[int]) -> None:
    """Raises ValueError when a label cannot be an object (0 is background, 255 void)."""
    wrong = [int(label) for label in ids if not 1 <= label <= 254]
    if wrong:
        raise ValueError(f"objects have ids 1..254, found {wrong} (0 is background, 255 is void)")
