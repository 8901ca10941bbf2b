import re
import tracemalloc

import numpy as np
import pytest

from vos_jax.metrics.frame import frame_scores, pair_scores
from vos_jax.metrics.protocols import PROTOCOLS, get_protocol
from vos_jax.metrics.scorer import SequenceScorer
from vos_jax.metrics.temporal.stability import TemporalStability

DAVIS = PROTOCOLS["davis2017"]
UNSUPERVISED = PROTOCOLS["davis2017-unsupervised"]


def blobs(seed, ids, length=5, size=(40, 60)):
    """Label maps [T, H, W] of rectangles at random places, later ids on top."""
    rng = np.random.default_rng(seed)
    labels = np.zeros((length, *size), np.uint8)
    for frame in labels:
        for i in ids:
            y, x = rng.integers(0, 20), rng.integers(0, 40)
            frame[y : y + rng.integers(5, 25), x : x + rng.integers(5, 25)] = i
    return labels


def run(protocol, truth, pred, ids, scored=None, **facts):
    if scored is None:
        scored = np.ones((len(truth), len(ids)), bool)
    scorer = SequenceScorer(protocol, facts.pop("name", "clip"), ids, scored, **facts)
    for t in np.flatnonzero(scored.any(axis=1)):
        scorer.add(t, truth[t], pred[t], f"clip/{t:05d}.png")
    return scorer.scores()


@pytest.mark.parametrize("seed", range(4))
def test_every_pair_scores_what_the_two_masks_alone_score(seed):
    gt, pred = blobs(seed, (1, 2, 3), 1)[0], blobs(seed + 9, (4, 5), 1)[0]
    gt[:, 30:33] = 255
    void = gt == 255 if seed % 2 else None
    j, f = pair_scores(gt, pred, [1, 2, 3, 8], [4, 5, 9], void)
    for p, pred_id in enumerate([4, 5, 9]):
        for k, gt_id in enumerate([1, 2, 3, 8]):
            alone = frame_scores((gt == gt_id) * 1, (pred == pred_id) * 1, [1], void)
            np.testing.assert_array_equal([[j[p, k]], [f[p, k]]], alone)


def test_objects_are_scored_in_their_own_frames():
    truth, pred = blobs(0, (1, 2)), blobs(1, (1, 2))
    scored = np.array([[0, 0], [1, 0], [1, 0], [1, 1], [0, 1]], bool)
    first, second = run(PROTOCOLS["youtube-vos"], truth, pred, [1, 2], scored)
    expected = [frame_scores(truth[t], pred[t], [2]) for t in (3, 4)]
    np.testing.assert_array_equal(second.values["J"], [j[0] for j, _ in expected])
    np.testing.assert_array_equal(second.values["F"], [f[0] for _, f in expected])
    assert (first.frames, second.frames) == (3, 2)


def test_merged_objects_are_one_whatever_their_ids():
    truth, pred = blobs(0, (1, 2)), blobs(1, (7, 9))
    (found,) = run(PROTOCOLS["davis2016"], truth, pred, [1, 2])
    (expected,) = run(DAVIS, (truth > 0) * np.uint8(1), (pred > 0) * np.uint8(1), [1])
    assert found.metrics == expected.metrics


def test_void_pixels_are_background_or_left_out():
    truth = np.zeros((1, 20, 20), np.uint8)
    truth[0, 5:15, 5:10], truth[0, 5:15, 10:15] = 1, 255
    pred = (truth > 0).astype(np.uint8)
    assert run(DAVIS, truth, pred, [1])[0].metrics["J-Mean"] == 0.5
    assert run(UNSUPERVISED, truth, pred, [1])[0].metrics["J-Mean"] == 1


def test_proposals_need_not_have_the_ids_of_the_objects():
    truth = blobs(0, (1, 2, 3))
    renamed = np.array([0, 17, 4, 9], np.uint8)[truth]
    found = run(UNSUPERVISED, truth, renamed, [1, 2, 3])
    assert [scores.proposal for scores in found] == [17, 4, 9]
    assert all(scores.metrics["J&F-Mean"] == 1 for scores in found)


def test_wrong_pixels_are_counted_per_frame():
    truth = blobs(0, (1,))
    pred = truth.copy()
    pred[:, 0, :3] = 1 - truth[:, 0, :3]
    (found,) = run(PROTOCOLS["segtrack"], truth, pred, [1])
    np.testing.assert_array_equal(found.values["E"], 3)


def test_temporal_stability_looks_at_scored_frames_of_sequences_without_occlusion():
    pred = blobs(3, (1,))
    measure = TemporalStability()
    for mask in pred[1:-1]:
        measure.add(mask == 1)
    scored = np.array([[0], [1], [1], [1], [0]], bool)
    official = get_protocol("davis2016", temporal="official")
    (found,) = run(official, pred, pred, [1], scored, name="camel")
    np.testing.assert_array_equal(found.values["T"], measure.values())
    assert found.metrics["T-Mean"] > 0
    (occluded,) = run(official, pred, pred, [1], scored, name="bmx-trees")
    assert np.isnan(occluded.metrics["T-Mean"])
    (asked,) = run(get_protocol("davis2016", temporal="all"), pred, pred, [1], scored)
    assert asked.metrics["T-Mean"] == found.metrics["T-Mean"]


@pytest.mark.parametrize(
    ("protocol", "fill", "message"),
    [
        ("davis2017", 3, "00000.png: expected only ids of the annotation, [1, 2], found ids [3]"),
        ("davis2017", 255, "found ids [255]"),
        ("davis2017-unsupervised", 21, "at most 20 proposals with ids from 1 on, found ids [21]"),
    ],
)
def test_ids_that_cannot_be_scored_are_refused(protocol, fill, message):
    truth = blobs(0, (1, 2))
    pred = truth.copy()
    pred[0, 0, 0] = fill
    with pytest.raises(ValueError, match=re.escape(message)):
        run(PROTOCOLS[protocol], truth, pred, [1, 2])


def test_results_of_another_size_are_refused():
    truth = blobs(0, (1,))
    with pytest.raises(ValueError, match=r"00000.png: the result is 20x60 .*annotation 40x60"):
        run(DAVIS, truth, truth[:, ::2], [1])


@pytest.mark.parametrize("protocol", [DAVIS, UNSUPERVISED], ids=["by id", "matched"])
def test_memory_does_not_grow_with_the_video_beyond_its_numbers(protocol):
    (frame,) = blobs(0, (1, 2), 1, size=(200, 300))  # 60 kB each
    length = 120
    scorer = SequenceScorer(protocol, "clip", [1, 2], np.ones((length, 2), bool))
    tracemalloc.start()
    try:
        held = []
        for t in range(length):
            scorer.add(t, frame.copy(), np.roll(frame, t, axis=1), "x")
            held.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    assert (held[-1] - held[20]) / (length - 21) < 2_000  # bytes a frame
