"""Mean, recall and decay of one object's per-frame scores.

F. Perazzi et al., CVPR 2016, section 4.2. One deviation from davis2017-evaluation: it keeps bin
edges in uint8, which wraps for more than 256 frames; here they are int64. Below that the numbers
are equal.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

RECALL_THRESHOLD = 0.5
DECAY_BINS = 4


class Statistics(NamedTuple):
    """mean in [0, 1]; recall: share of frames above 0.5; decay: first minus last quarter's mean."""

    mean: float
    recall: float
    decay: float


def sequence_statistics(values: np.ndarray) -> Statistics:
    """Statistics of per-frame scores [n] in time order, n >= 1.

    NaN frames are left out of the means but count as misses in the recall, as in the official code.
    Raises ValueError for an empty list: an object without scored frames has no score.
    """
    values = np.asarray(values, np.float64)
    if values.ndim != 1 or values.size == 0:
        raise ValueError(f"expected a non-empty list of frame scores, found shape {values.shape}")
    first, last = _quarter(values, 0), _quarter(values, DECAY_BINS - 1)
    decay = mean_of_known(first) - mean_of_known(last)
    return Statistics(mean_of_known(values), float(np.mean(values > RECALL_THRESHOLD)), decay)


def mean_of_known(values: Sequence[float]) -> float:
    """Mean of the values that are not NaN; NaN where none is left."""
    values = np.asarray(values, np.float64)
    known = values[~np.isnan(values)]
    return float(np.mean(known)) if known.size else float("nan")


def _quarter(values: np.ndarray, i: int) -> np.ndarray:
    """Bin `i` of 4; neighbouring bins share their border frame."""
    # The tiny offset makes halves round up instead of to even.
    edges = np.round(np.linspace(1, values.size, DECAY_BINS + 1) + 1e-10).astype(np.int64) - 1
    return values[edges[i] : edges[i + 1] + 1]
