import numpy as np
import pytest

from vos_jax.metrics.statistics import sequence_statistics


def test_recall_is_strict_and_one_frame_has_no_decay():
    assert sequence_statistics(np.array([0.5])) == (0.5, 0, 0)


def test_decay_bins_share_their_border_frames():
    # Borders of 5 frames are 0, 1, 2, 3, 4: the first bin holds frames 0-1, the last 3-4.
    assert sequence_statistics(np.array([1, 0.5, 0, 0.25, 0])).decay == 0.75 - 0.125


def test_decay_of_more_than_256_frames_does_not_wrap():
    values = np.linspace(1, 0, 1001)
    assert sequence_statistics(values).decay == pytest.approx(0.75)


def test_unknown_frames_leave_the_mean_alone_and_count_as_misses():
    mean, recall, _ = sequence_statistics(np.array([1, np.nan, 0.8, 0.6]))
    assert mean == pytest.approx(0.8)
    assert recall == 0.75


def test_no_frames_are_refused():
    with pytest.raises(ValueError, match="non-empty"):
        sequence_statistics(np.zeros(0))
