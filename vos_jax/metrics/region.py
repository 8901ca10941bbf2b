"""Region similarity J: intersection over union of two masks.

F. Perazzi et al., A Benchmark Dataset and Evaluation Methodology for Video Object Segmentation,
CVPR 2016, section 4; the numbers equal those of davis2017-evaluation.
"""

import numpy as np


def region_similarity(gt: np.ndarray, pred: np.ndarray, void: np.ndarray | None = None) -> float:
    """J = |G & S & ~V| / |(G | S) & ~V| of one object in one frame, a float in [0, 1].

    Args:
        gt: [H, W] the true mask, non-zero inside.
        pred: [H, W] the predicted mask, non-zero inside.
        void: [H, W] pixels that do not count, or None.

    Two empty masks agree: an empty union gives 1.
    """
    gt, pred = as_masks(gt, pred, void)
    return overlap_ratio(gt, pred)


def as_masks(
    gt: np.ndarray, pred: np.ndarray, void: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Both masks as bool [H, W] with void pixels set to background.

    Raises ValueError when the shapes differ.
    """
    gt, pred = np.asarray(gt), np.asarray(pred)
    check_same_shape(gt, pred, void)
    gt, pred = gt != 0, pred != 0
    if void is not None:
        keep = np.asarray(void) == 0
        gt, pred = gt & keep, pred & keep
    return gt, pred


def check_same_shape(gt: np.ndarray, pred: np.ndarray, void: np.ndarray | None) -> None:
    """Raises ValueError unless all maps are [H, W] of one size."""
    if gt.ndim != 2 or gt.shape != pred.shape:
        raise ValueError(
            f"the prediction has shape {pred.shape}, the ground truth {gt.shape}; expected two "
            "[H, W] maps of one size: write results at the size of the annotations"
        )
    if void is not None and np.shape(void) != gt.shape:
        raise ValueError(f"the void map has shape {np.shape(void)}, expected {gt.shape}")


def overlap_ratio(gt: np.ndarray, pred: np.ndarray) -> float:
    """J of two bool masks [H, W]; 1 when both are empty."""
    union = np.count_nonzero(gt | pred)
    return np.count_nonzero(gt & pred) / union if union else 1.0
