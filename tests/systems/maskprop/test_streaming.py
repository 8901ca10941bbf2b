"""MaskProp on a user's video: frames come out late and complete, gaps filled, other linkers."""

import functools
from dataclasses import replace

import numpy as np
import pytest

from tests.systems.maskprop import tiny_maskprop
from tests.tiny import quick_compilation
from vos_jax.data.rle import decode, encode
from vos_jax.inference.gaps import FillingLinker
from vos_jax.inference.instances import InstanceSegmenter, compiled
from vos_jax.inference.linking.base import Found, Linked
from vos_jax.inference.tracks import Tracks
from vos_jax.inference.vis_setup import VISInference, check_linkers
from vos_jax.systems.mask_rcnn.model import MaskRCNN

REACH = 2


@functools.cache
def system():
    return tiny_maskprop.tiny_maskprop(reach=REACH, score_threshold=0.02, canvas=(0, 0))


def frames(count, size=(64, 64), seed=0):
    rng = np.random.default_rng(seed)
    first = rng.integers(0, 255, (*size, 3), np.uint8)
    return [np.roll(first, 3 * t, axis=1) for t in range(count)]


def seen(segmenter, video):
    """How many frames were decided at each step, and all of them."""
    steps = [segmenter.step(frame) for frame in video] + [segmenter.finish()]
    return [len(step) for step in steps], [one for step in steps for one in step]


def segmenter(**fields):
    model, variables = system()
    return VISInference(model.clone(**fields), aggregate="mean").segmenter(variables)


@pytest.mark.parametrize("length", [1, 2, 5])
def test_frames_come_out_once_each_the_reach_late_also_of_videos_shorter_than_it(length):
    with quick_compilation():
        counts, linked = seen(segmenter(), frames(length))
    late = min(REACH, length)
    assert counts == [0] * late + [1] * (length - late) + [late]
    assert any(len(one.found) for one in linked)
    assert all((one.ids >= 0).all() and len(set(one.ids)) == len(one.ids) for one in linked)


def test_canvases_of_another_shape_are_another_program_and_lengths_are_not():
    model, _ = system()
    with quick_compilation():
        for length, size in ((3, (64, 64)), (6, (64, 64)), (3, (64, 96))):
            seen(segmenter(), frames(length, size))
    assert compiled(model).link._cache_size() == 2


def test_filled_masks_join_the_tracks_and_change_no_score():
    video = frames(7)
    with quick_compilation():
        plain, filled = segmenter(), segmenter(fill_missing=True)
        _, expected = seen(plain, video)
        counts, found = seen(filled, video)
    assert counts == [0] * 2 * REACH + [1] * (7 - 2 * REACH) + [2 * REACH]
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.ids.tolist() == theirs.ids.tolist() and ours.found.rles == theirs.found.rles
        assert not set(ours.filled) & set(ours.ids.tolist())
    pairs = zip(filled.tracks.tracks(), plain.tracks.tracks(), strict=True)
    more = 0
    for k, (track, before) in enumerate(pairs):
        assert (track.score, track.category_id) == (before.score, before.category_id)
        for t, (rle, old) in enumerate(zip(track.rles, before.rles, strict=True)):
            assert rle == (old or found[t].filled.get(k))
            more += rle is not None and old is None
    assert more == sum(len(one.filled) for one in found)


def test_what_was_carried_is_enlarged_to_the_frame():
    model, variables = system()
    linker = FillingLinker(model, variables)
    mask = np.zeros((8, 8), np.float32)
    mask[2:4, 1:3] = 1
    found = linker._on_frame(mask, np.array([64, 48]), (128, 96))
    rows, columns = np.nonzero(found)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (32, 63, 16, 47)


def test_the_track_head_links_the_same_detections_beside_the_model_and_others_refuse_it():
    model, variables = system()
    inference = VISInference(model, aggregate="mean")
    with quick_compilation():
        _, ours = seen(inference.segmenter(variables), frames(4))
        counts, theirs = seen(
            replace(inference, linker="track_head").segmenter(variables), frames(4)
        )
    assert counts == [1, 1, 1, 1, 0]
    for a, b in zip(ours, theirs, strict=True):
        assert set(b.found.scores) <= set(a.found.scores)
    with pytest.raises(ValueError, match="MaskRCNN has no head for 'track_head'"):
        check_linkers(VISInference(MaskRCNN()), ["track_head"], "config.inference.linker")


def test_masks_of_results_are_those_of_the_mask_head():
    model, variables = system()
    with quick_compilation():
        one = InstanceSegmenter(model.clone(reach=0), variables)
        linked = one.step(frames(1)[0])[0]
    assert decode(linked.found.rles, (64, 64)).any()


def test_a_filled_mask_is_in_the_track_and_not_in_its_score_or_class():
    tracks = Tracks("mean")
    mask, other = encode(np.eye(4, dtype=bool)[None].repeat(2, axis=0)), np.ones((1, 4, 4), bool)
    for score, filled in ((0.8, {}), (None, {0: encode(other)[0]}), (0.4, {})):
        seen = int(score is not None)
        found = Found(
            boxes=np.zeros((seen, 4), np.float32),
            scores=np.full(seen, score, np.float32),
            classes=np.ones(seen, np.int32),
            rles=mask[:seen],
            size=(4, 4),
            probabilities=np.float32([[0.1, score or 0, 0.1]] * seen).reshape(seen, 3),
        )
        tracks.add([Linked(found, np.zeros(seen, int), filled)])
    (track,) = tracks.tracks()
    assert [rle is not None for rle in track.rles] == [True] * 3
    assert decode(track.rles[1:2], (4, 4)).all()
    assert track.score == pytest.approx(0.6) and track.category_id == 1
