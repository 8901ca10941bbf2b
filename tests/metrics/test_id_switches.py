"""Identity switches, by hand and on tracks whose ids were exchanged."""

import numpy as np
import pytest

from tests.metrics.tracks import discs, rles_of
from vos_jax.metrics.id_switches import IdSwitchCounter, IdSwitches
from vos_jax.metrics.youtube_vis import track_overlaps

ONE = np.array([0])


def see(counter, pairs, overlap=0.9):
    """pairs: result and true track that overlap in this frame."""
    found, truths = (np.unique([pair[i] for pair in pairs]) for i in (0, 1))
    overlaps = np.zeros((len(found), len(truths)))
    for d, g in pairs:
        overlaps[np.searchsorted(found, d), np.searchsorted(truths, g)] = overlap
    counter.see(found, truths, overlaps)


def test_another_result_is_a_switch_and_so_is_the_way_back():
    counter = IdSwitchCounter([True, True])
    for pairs in ([(0, 0), (1, 1)], [(1, 0), (0, 1)], [(1, 0)], [(0, 0), (1, 1)]):
        see(counter, pairs)
    assert counter.result() == IdSwitches(switches=4, followed=2, ids=4, tracks=2)


def test_a_gap_forgets_nothing():
    counter = IdSwitchCounter([True])
    see(counter, [(0, 0)])
    counter.see(np.zeros(0, int), ONE, np.zeros((0, 1)))
    see(counter, [(0, 0)])
    assert counter.result().switches == 0
    counter.see(np.zeros(0, int), ONE, np.zeros((0, 1)))
    see(counter, [(5, 0)])
    assert counter.result() == IdSwitches(1, 1, 2, 1)


def test_a_pair_stays_while_it_overlaps_by_half_though_another_overlaps_more():
    counter = IdSwitchCounter([True])
    see(counter, [(0, 0)])
    counter.see(np.array([0, 1]), ONE, np.array([[0.5], [0.95]]))
    assert counter.result().switches == 0
    counter.see(np.array([0, 1]), ONE, np.array([[0.49], [0.95]]))
    assert counter.result().switches == 1


def test_overlaps_below_half_pair_nothing_and_crowds_do_not_count():
    counter = IdSwitchCounter([True, False])
    see(counter, [(0, 0), (1, 1)], overlap=0.4)
    see(counter, [(2, 1)])
    see(counter, [(3, 1)])
    assert counter.result() == IdSwitches(0, 0, 0, 1)
    assert counter.result().facts()["ids_per_track"] == -1


@pytest.mark.parametrize("frame", [1, 3])
def test_masks_whose_ids_are_exchanged_from_a_frame_on_switch_twice(frame):
    truths = rles_of(discs(np.random.default_rng(3), 6, 2))
    assert all(None not in rles for rles in truths)
    a, b = truths
    found = [a[:frame] + b[frame:], b[:frame] + a[frame:]]
    counter = IdSwitchCounter([True, True])
    track_overlaps(found, truths, counter)
    assert counter.result().switches == 2
    counter = IdSwitchCounter([True, True])
    track_overlaps(truths[::-1], truths, counter)
    assert counter.result() == IdSwitches(0, 2, 2, 2)


def test_numbers_of_videos_add_up():
    total = sum([IdSwitches(1, 2, 3, 4), IdSwitches(2, 2, 5, 6)], IdSwitches())
    assert total == IdSwitches(3, 4, 8, 10) and total.facts()["ids_per_track"] == 2.0
