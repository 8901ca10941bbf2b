"""Linked detections become tracks: masks, one class and one score each, in order of appearance."""

import json

import numpy as np
import pytest

from tests.inference.linking.moving import World, disc, found_of, straight, tracks_of
from vos_jax.data.rle import decode
from vos_jax.data.track_files import results_json
from vos_jax.inference.linking.base import DROPPED, Found, Linked, NoLinker
from vos_jax.inference.linking.iou import BoxLinker
from vos_jax.inference.tracks import Tracks, link

MASKS = np.stack([disc((40, 30), 8), disc((40, 80), 8)])


def linked(ids, classes, scores, probabilities=None):
    found = found_of(MASKS[: len(ids)], classes, scores=np.array(scores, np.float32))
    found = Found(**{**vars(found), "probabilities": probabilities})
    return Linked(found, np.array(ids))


def test_the_class_of_most_frames_and_the_mean_score():
    tracks = Tracks()
    tracks.add([linked([0], [2], [0.9]), linked([0], [3], [0.3])])
    tracks.add([linked([], [], []), linked([0], [3], [0.6])])
    (track,) = tracks.tracks()
    assert track.category_id == 3 and track.score == pytest.approx(0.6)
    assert [rle is None for rle in track.rles] == [False, False, True, False]
    assert track.area == MASKS[0].sum()


def test_of_equally_frequent_classes_the_lowest():
    tracks = Tracks()
    tracks.add([linked([4], [5], [0.9]), linked([4], [2], [0.9])])
    assert tracks.tracks()[0].category_id == 2
    assert tracks.tracks(category_ids=[10, 20, 30, 40, 50])[0].category_id == 20


def test_the_mean_of_the_probabilities_decides_where_it_is_asked_to():
    tracks = Tracks("mean")
    first, second = np.array([[0.1, 0.5, 0.4]]), np.array([[0.2, 0.1, 0.7]])
    tracks.add([linked([0], [1], [0.5], first), linked([0], [2], [0.7], second)])
    (track,) = tracks.tracks()
    assert track.category_id == 2 and track.score == pytest.approx(0.55)
    with pytest.raises(ValueError, match="needs detections with probabilities"):
        Tracks("mean").add([linked([0], [1], [0.5])])
    with pytest.raises(ValueError, match="expected aggregate"):
        Tracks("median")


def test_the_later_detection_of_an_identity_counts_and_dropped_ones_do_not():
    tracks = Tracks()
    tracks.add([linked([0, 0], [1, 1], [0.9, 0.4]), linked([DROPPED, 0], [1, 1], [0.9, 0.6])])
    (track,) = tracks.tracks()
    assert track.score == pytest.approx(0.5)
    assert (decode([track.rles[0]], MASKS.shape[1:])[0] == MASKS[1]).all()


def test_results_have_the_official_keys_and_begin_with_what_appeared_first():
    world = World(
        [
            (2, 8, straight((20, 90), (0, -2), first=3), (1, 0)),
            (1, 8, straight((60, 20), (0, 2)), (0, 1)),
        ],
        6,
    )
    entries = json.loads(results_json({7: tracks_of(BoxLinker(), world)}))
    assert [list(entry) for entry in entries] == [
        ["video_id", "category_id", "score", "segmentations"]
    ] * 2
    assert [(e["video_id"], e["category_id"]) for e in entries] == [(7, 1), (7, 2)]
    assert entries[1]["segmentations"][:3] == [None] * 3
    segmentation = entries[0]["segmentations"][5]
    assert list(segmentation) == ["size", "counts"] and segmentation["size"] == [80, 120]
    assert isinstance(segmentation["counts"], str)


def test_without_a_linker_there_is_an_entry_for_every_detection_by_frame_and_score():
    world = World([(1, 8, straight((20, 30 + 40 * n), (0, 2)), (1, 0)) for n in range(2)], 3)
    tracks = tracks_of(NoLinker(), world)
    frames = [[t for t, rle in enumerate(track.rles) if rle] for track in tracks]
    assert frames == [[0], [0], [1], [1], [2], [2]]
    assert all(a.score > b.score for a, b in zip(tracks[::2], tracks[1::2], strict=True))


def test_a_video_without_detections_has_no_tracks():
    tracks = Tracks()
    assert tracks.tracks() == []
    tracks.add([linked([], [], [])])
    assert tracks.tracks() == [] and json.loads(results_json({1: []})) == []


def test_several_linkers_follow_one_pass_of_a_detector():
    world = World([(1, 8, straight((40, 30), (0, 2), away=(2,)), (1, 0))], 5)
    asked = []

    def detected():
        for t in range(world.length):
            asked.append(t)
            yield world.step(t)[:2]

    linkers = {"none": NoLinker(), "strict": BoxLinker(), "patient": BoxLinker(patience=1)}
    tracks = link(detected(), linkers, category_ids=[33])
    assert asked == [0, 1, 2, 3, 4]
    assert {name: len(found) for name, found in tracks.items()} == {
        "none": 4,
        "strict": 2,
        "patient": 1,
    }
    assert tracks["patient"][0].category_id == 33
    assert [rle is None for rle in tracks["patient"][0].rles] == [t == 2 for t in range(5)]
