"""Average precision against the official numbers for videos, and by hand."""

import json

import numpy as np
import pytest

from tests.fixtures import fixture
from vos_jax.metrics.average_precision import Place, precision_and_recall

VIDEO_RANGES = ((0, 1e10), (0, 128**2), (128**2, 256**2), (256**2, 1e10))
LIMITS = (1, 10, 100)
CASES = ("case_1", "case_2", "case_3", "case_empty_results")


def rle_area(segmentation) -> int:
    """Pixels of a run-length mask; its runs may be written in COCO's compressed form."""
    counts = segmentation["counts"]
    if isinstance(counts, list):
        return sum(counts[1::2])
    runs, position = [], 0
    while position < len(counts):
        value = shift = 0
        more = True
        while more:
            code = ord(counts[position]) - 48
            value |= (code & 0x1F) << shift
            more, position, shift = bool(code & 0x20), position + 1, shift + 5
        if code & 0x10:
            value |= -1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
    return sum(runs[1::2])


def mean_area(areas) -> float:
    counted = [area for area in areas if area]
    return float(np.mean(counted)) if counted else 0.0


def places(case):
    """Category -> the places of all videos, with the official overlaps."""
    folder = fixture("ytvis_eval") / case
    names = ("gt", "results", "expected")
    truth, results, expected = (json.loads((folder / f"{n}.json").read_text()) for n in names)
    overlaps = {(v, c): np.reshape(iou, shape) for v, c, iou, shape in expected["track_ious"]}
    found = {category["id"]: [] for category in truth["categories"]}
    for c, group in found.items():
        for video in sorted(truth["videos"], key=lambda video: video["id"]):
            key = (video["id"], c)
            tracks = [a for a in truth["annotations"] if (a["video_id"], a["category_id"]) == key]
            tried = [r for r in results if (r["video_id"], r["category_id"]) == key]
            order = np.argsort([-r["score"] for r in tried], kind="stable")[: LIMITS[-1]]
            tried = [tried[i] for i in order]
            sizes = [[s and rle_area(s) for s in r["segmentations"]] for r in tried]
            group.append(
                Place.of(
                    overlaps.get(key, np.zeros((len(tried), len(tracks)))),
                    [r["score"] for r in tried],
                    [mean_area(areas) for areas in sizes],
                    [mean_area(a["areas"]) for a in tracks],
                    [a["iscrowd"] for a in tracks],
                )
            )
    return found, expected


@pytest.mark.parametrize("case", CASES)
def test_the_official_numbers_for_videos_come_out(case):
    found, expected = places(case)
    curves = precision_and_recall(found, area_ranges=VIDEO_RANGES, limits=LIMITS)
    with np.load(fixture("ytvis_eval") / case / "expected_arrays.npz") as arrays:
        assert arrays["precision"].dtype == np.float32  # rounded when it was stored
        np.testing.assert_allclose(curves.precision, arrays["precision"], rtol=6e-8)
        np.testing.assert_allclose(curves.recall, arrays["recall"], rtol=6e-8)
    numbers = [
        curves.average_precision(),
        curves.average_precision(0.5),
        curves.average_precision(0.75),
        *(curves.average_precision(area=a) for a in (1, 2, 3)),
        *(curves.average_recall(m) for m in range(3)),
        *(curves.average_recall(area=a) for a in (1, 2, 3)),
    ]
    official = [expected["stats"][name] for name in expected["stats_order"]]
    np.testing.assert_allclose(numbers, official, rtol=0, atol=1e-9)


def test_a_better_scored_detection_takes_the_truth_that_both_overlap_most():
    place = Place.of([[0.9, 0.6], [0.95, 0.4], [0.2, 0.3]], [0.9, 0.8, 0.7])
    curves = precision_and_recall([[place]], thresholds=np.array([0.5]))
    assert curves.recall.item() == 0.5
    # the first detection is right, the two others are not: precision 1 up to recall 0.5, then 0
    np.testing.assert_allclose(curves.precision[0, :51, 0, 0, 0], 1)
    np.testing.assert_allclose(curves.precision[0, 51:, 0, 0, 0], 0)


def test_crowds_count_as_nothing_and_excuse_any_number_of_detections():
    place = Place.of([[0.9, 0.0], [0.0, 0.8], [0.0, 0.7]], [0.5, 0.9, 0.8], crowd=[False, True])
    curves = precision_and_recall([[place]], thresholds=np.array([0.5]))
    assert curves.average_precision() == pytest.approx(1) and curves.average_recall() == 1


def test_without_truths_there_is_no_number_and_unknown_overlaps_are_refused():
    curves = precision_and_recall([[Place.of([[]], [0.3])]])
    assert curves.average_precision() == -1 == curves.average_recall()
    with pytest.raises(ValueError, match="expected a threshold of .*found 0.55555"):
        curves.average_precision(0.55555)
