"""Average precision of tracks: the official numbers, in a fraction of the official time."""

import json
import time
import tracemalloc

import numpy as np
import pytest
from pycocotools import mask as coco

from tests.fixtures import fixture
from tests.metrics.tracks import discs, rles_of
from vos_jax.data.track_files import Track, read_annotations, read_results
from vos_jax.metrics.track_tables import method_table, scores_json, statement
from vos_jax.metrics.youtube_vis import TrackScorer, track_overlaps

CASES = ("case_1", "case_2", "case_3", "case_empty_results")


def scored(case, class_agnostic=False, order=1, offset=0):
    folder = fixture("ytvis_eval") / case
    truth = read_annotations(folder / "gt.json")
    results = read_results(folder / "results.json", truth)
    names = dict(zip(truth.categories.ids, truth.categories.names, strict=True))
    scorer = TrackScorer(names, class_agnostic)
    for video in list(truth.videos)[::order]:
        scorer.add(video + offset, truth.truths(video), results.tracks(video))
    return scorer.scores(), json.loads((folder / "expected.json").read_text())


@pytest.mark.parametrize("case", CASES)
def test_the_official_numbers_come_out(case):
    scores, expected = scored(case)
    official = [expected["stats"][name] for name in expected["stats_order"]]
    np.testing.assert_allclose(list(scores.metrics.values()), official, rtol=0, atol=1e-9)
    per_category = [facts["AP"] for facts in scores.per_category.values()]
    official = [expected["per_category_AP"][str(k)] for k in range(1, len(per_category) + 1)]
    np.testing.assert_allclose(per_category, official, rtol=0, atol=1e-9)
    with np.load(fixture("ytvis_eval") / case / "expected_arrays.npz") as arrays:
        # the stored ones are rounded to float32
        np.testing.assert_allclose(scores.curves.precision, arrays["precision"], rtol=6e-8)
        np.testing.assert_allclose(scores.curves.recall, arrays["recall"], rtol=6e-8)


@pytest.mark.parametrize("case", CASES)
def test_the_official_numbers_without_categories_come_out(case):
    scores, expected = scored(case, class_agnostic=True)
    official = expected["stats_useCats0"]
    official = list(official.values()) if isinstance(official, dict) else official
    np.testing.assert_allclose(list(scores.metrics.values()), official, rtol=0, atol=1e-9)
    assert list(scores.per_category) == ["all objects"]


@pytest.mark.parametrize("case", CASES)
def test_the_official_overlaps_of_tracks_come_out(case):
    folder = fixture("ytvis_eval") / case
    truth = read_annotations(folder / "gt.json")
    results = read_results(folder / "results.json", truth)
    for video, category, flat, shape in scored(case)[1]["track_ious"]:
        found = [t for t in results.tracks(video) if t.category_id == category]
        found = sorted(found, key=lambda track: -track.score)[:100]
        tracks = [t for t in truth.truths(video) if t.category_id == category]
        overlaps = track_overlaps([t.rles for t in found], [t.rles for t in tracks])
        np.testing.assert_allclose(overlaps, np.reshape(flat, shape), rtol=0, atol=1e-12)


def test_the_order_and_the_numbers_of_videos_do_not_matter():
    scores, _ = scored("case_2")
    for change in ({"order": -1}, {"offset": 1000}):
        other, _ = scored("case_2", **change)
        assert other.metrics == scores.metrics and other.per_category == scores.per_category
        assert list(other.per_sequence.values()) == list(scores.per_sequence.values())
        assert other.switches == scores.switches


def test_a_video_of_its_own_has_the_numbers_of_a_set_of_one():
    folder = fixture("ytvis_eval") / "case_2"
    truth = read_annotations(folder / "gt.json")
    results = read_results(folder / "results.json", truth)
    whole, _ = scored("case_2")
    for video in truth.videos:
        scorer = TrackScorer(dict(zip(truth.categories.ids, truth.categories.names, strict=True)))
        scorer.add(video, truth.truths(video), results.tracks(video))
        alone, facts = scorer.scores().metrics, whole.per_sequence[video]
        assert {name: facts[name] for name in ("AP", "AP50", "AP75", "AR1", "AR10")} == {
            name: alone[name] for name in ("AP", "AP50", "AP75", "AR1", "AR10")
        }


def test_a_frame_with_one_of_the_two_adds_to_their_union():
    masks = np.zeros((2, 1, 4, 4), bool)
    masks[0, 0, :2] = masks[1, 0, :, :2] = True
    (rles,) = rles_of(masks)
    assert track_overlaps([[rles[0], None]], [rles]).item() == 0.5
    assert track_overlaps([[None, None]], [[None, None]]).item() == 0


def test_no_number_is_minus_one_in_the_file_and_a_dash_in_the_table():
    scores, _ = scored("case_1")
    assert scores.metrics["APl"] == -1
    content = json.loads(scores_json(scores, {"gt": "a"}))
    assert content["metrics"]["APl"] == -1.0 and content["per_category"]["class_3"]["AP"] == -1.0
    assert content["protocol"] == "youtube-vis" and content["settings"]["gt"] == "a"
    assert set(content["per_category"]["class_1"]) == {
        "AP", "AP50", "AP75", "AR1", "AR10", "tracks", "detections",
    }  # fmt: skip
    assert " - " in method_table({"a": scores}) and "2 videos" in statement(scores)


def test_a_video_is_scored_once():
    scorer = TrackScorer({1: "a"})
    scorer.add(3, [], [])
    with pytest.raises(ValueError, match="video 3 was scored before"):
        scorer.add(3, [], [])


def merged_overlaps(found, truths):
    """The official form: two merges for each pair in each frame."""
    overlaps = np.zeros((len(found), len(truths)))
    for d, ours in enumerate(found):
        for g, theirs in enumerate(truths):
            pairs = list(zip(ours, theirs, strict=True))
            common = sum(coco.area(coco.merge(pair, intersect=True)) for pair in pairs)
            overlaps[d, g] = common / sum(coco.area(coco.merge(pair)) for pair in pairs)
    return overlaps


def test_overlaps_take_a_third_of_the_time_of_two_merges_a_pair_at_most():
    rng = np.random.default_rng(0)
    truths = rles_of(discs(rng, 18, 10, (360, 640)))
    found = [rles[1:] + rles[:1] for rles in truths]
    complete = [d for d, rles in enumerate(truths) if None not in rles]
    truths, found = [truths[d] for d in complete], [found[d] for d in complete]
    assert len(complete) > 6

    def seconds(function):
        spent = []
        for _ in range(3):
            start = time.process_time()
            result = function(found, truths)
            spent.append(time.process_time() - start)
        return min(spent), result

    official, expected = seconds(merged_overlaps)
    ours, overlaps = seconds(track_overlaps)
    np.testing.assert_allclose(overlaps, expected, rtol=0, atol=1e-12)
    assert official > 3 * ours


def test_of_a_scored_video_less_than_its_masks_is_kept():
    rng = np.random.default_rng(0)
    rles = rles_of(discs(rng, 12, 6))

    def peak(videos):
        scorer = TrackScorer({1: "a"})
        tracemalloc.start()
        for video in range(videos):
            tracks = [Track.found(1, [r and dict(r) for r in each], 0.5) for each in rles]
            scorer.add(video, tracks, tracks)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    masks = sum(len(rle["counts"]) for each in rles for rle in each if rle)
    assert (peak(24) - peak(4)) / 20 < 0.5 * masks
