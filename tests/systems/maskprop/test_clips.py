"""Clips in streaming: as at hand, exact with perfect masks, one program, gaps are filled."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.systems.maskprop.test_branch import GRID, tiny
from vos_jax.ops.clip_linking import link_clips
from vos_jax.systems.maskprop.clips import Frame, push, start_clips
from vos_jax.systems.maskprop.filling import Filling

SLOTS = 4
WIDE = (12, 40)
THRESHOLD = 0.12  # between the scores of what random features carry


def perfect(features, masks, valid, others):
    """A branch that knows: channel k of the features is the mask of object k."""
    overlap = jnp.einsum("bnhw,bhwc->bnc", masks, features)
    chosen = jax.nn.one_hot(overlap.argmax(axis=2), features.shape[-1]) * valid[..., None]
    return jnp.einsum("bnc,bkhwc->bknhw", chosen, others)


def squares(seen):
    """Masks [K, T, h, w] of squares that pass each other; seen bool [K, T]."""
    objects, frames = seen.shape
    rng = np.random.default_rng(0)
    start, speed = rng.integers(0, 30, objects), rng.choice([-1, 1], objects)
    video = np.zeros((objects, frames, *WIDE), np.float32)
    for k, t in zip(*np.nonzero(seen), strict=True):
        x = (start[k] + speed[k] * t) % 34
        video[k, t, 3 * k : 3 * k + 3, x : x + 6] = 1
    return video


def frames_of(features, masks, valid):
    """Frames with batch 1; features [T, h, w, C], masks [T, D, h, w], valid [T, D]."""
    real = np.ones((1,), bool)
    return [
        Frame(f[None], m[None], v[None], real, {"frame": np.array([t], np.int32)})
        for t, (f, m, v) in enumerate(zip(features, masks, valid, strict=True))
    ]


def absent(frame):
    blank = jax.tree.map(np.zeros_like, frame)
    return blank.replace(features=np.full_like(frame.features, 7.0))  # must not matter


def stepper(branch, reach, threshold=0.3, exclusive=False):
    return jax.jit(lambda m, f: push(branch, m, f, reach, threshold, exclusive))


def streamed(step, frames, reach):
    """The clips of a video, one for each frame."""
    memory, clips = start_clips(frames[0], reach), []
    for frame in [*frames, *[absent(frames[0])] * reach]:
        memory, clip = step(memory, frame)
        clips.append(jax.device_get(clip))
    assert not any(clip.real[0, reach] or (clip.ids >= 0).any() for clip in clips[:reach])
    return clips[reach:]


def detected(video, found):
    """Frames in which the objects of `found` bool [K, T] are detected, and which they are."""
    shown = [np.flatnonzero(found[:, t]) for t in range(video.shape[1])]
    masks = np.zeros((video.shape[1], SLOTS, *WIDE), np.float32)
    for t, objects in enumerate(shown):
        masks[t, : len(objects)] = video[objects, t]
    valid = np.arange(SLOTS) < np.array([[len(objects)] for objects in shown])
    return frames_of(np.moveaxis(video, 0, -1), masks, valid), shown


@functools.cache
def video_of_the_branch(frames=7, seed=0):
    rng = np.random.default_rng(seed)
    features = np.float32(rng.normal(size=(frames, *GRID, 8)))
    masks = np.float32(rng.random((frames, SLOTS, *GRID)) > 0.6)
    valid = np.arange(SLOTS) < rng.integers(0, SLOTS + 1, (frames, 1))
    return frames_of(features, masks, valid)


@functools.cache
def step_of_the_branch(reach, exclusive=False):
    module, params = tiny()
    return stepper(functools.partial(module.apply, params), reach, THRESHOLD, exclusive)


@pytest.mark.parametrize("exclusive", [False, True])
def test_streaming_gives_the_ids_of_all_clips_at_hand(exclusive):
    reach, frames = 2, video_of_the_branch()
    clips = streamed(step_of_the_branch(reach, exclusive), frames, reach)
    at_hand = [clip.masks[0][frame.valid[0]] for clip, frame in zip(clips, frames, strict=True)]
    expected = link_clips(at_hand, reach, THRESHOLD, exclusive)
    for t, (clip, frame, ids) in enumerate(zip(clips, frames, expected, strict=True)):
        np.testing.assert_array_equal(clip.ids[0][frame.valid[0]], ids)
        assert (clip.ids[0][~frame.valid[0]] == -1).all()
        assert clip.detections["frame"] == [t]
    assert 0 < max(ids.max(initial=-1) for ids in expected) < sum(map(len, expected)) - 1


def test_the_masks_of_a_clip_are_the_branch_s_around_the_detector_s():
    reach, frames = 2, video_of_the_branch()
    module, params = tiny()
    branch = jax.jit(module.apply)
    for t, clip in enumerate(streamed(step_of_the_branch(reach), frames, reach)):
        here = frames[t]
        for place, s in enumerate(range(t - reach, t + reach + 1)):
            assert clip.real[0, place] == (0 <= s < len(frames))
            if s == t:
                expected = here.masks * here.valid[..., None, None]
            elif clip.real[0, place]:
                other = frames[s].features[:, None]
                expected = branch(params, here.features, here.masks, here.valid, other)[:, 0]
            else:
                expected = np.zeros_like(here.masks)
            np.testing.assert_allclose(clip.masks[:, :, place], expected, atol=1e-5)


def test_identities_are_found_exactly_through_births_deaths_crossings_and_gaps():
    reach, seen = 3, np.ones((4, 20), bool)
    seen[1, :7] = seen[2, 15:] = seen[3, 9] = False
    frames, shown = detected(squares(seen), seen)
    order = list(dict.fromkeys(np.concatenate(shown).tolist()))
    for clip, objects in zip(streamed(stepper(perfect, reach), frames, reach), shown, strict=True):
        assert clip.ids[0, : len(objects)].tolist() == [order.index(k) for k in objects]


def test_videos_of_any_length_are_one_program_and_videos_of_a_batch_do_not_meet():
    reach, step = 2, step_of_the_branch(2)
    videos = [video_of_the_branch(frames, seed) for frames, seed in ((7, 0), (3, 1))]
    alone = [streamed(step, frames, reach) for frames in videos]
    assert step._cache_size() == 1
    longest = max(map(len, videos))
    padded = [f + [absent(f[0])] * (longest - len(f)) for f in videos]
    together = [
        jax.tree.map(lambda *x: np.concatenate(x), *pair) for pair in zip(*padded, strict=True)
    ]
    clips = streamed(step, together, reach)
    for row, expected in enumerate(alone):
        for ours, theirs in zip(clips, expected, strict=False):
            np.testing.assert_array_equal(ours.ids[row], theirs.ids[0])
            np.testing.assert_allclose(ours.masks[row], theirs.masks[0], atol=1e-5)


def test_memory_stays_as_it_is_and_holds_as_many_frames_and_clips_as_meet():
    reach, frames = 2, video_of_the_branch()
    memory = start_clips(frames[0], reach)
    after = jax.eval_shape(step_of_the_branch(reach), memory, frames[0])[0]
    shapes = [jax.tree.map(lambda x: (x.shape, x.dtype), tree) for tree in (memory, after)]
    assert shapes[0] == shapes[1]
    assert memory.frames.features.shape[1] == 5 and memory.window.masks.shape[1] == 4


def test_without_reach_every_detection_is_a_track():
    seen = np.ones((2, 3), bool)
    frames, _ = detected(squares(seen), seen)
    clips = streamed(stepper(perfect, 0), frames, 0)
    assert [clip.ids[0, :2].tolist() for clip in clips] == [[0, 1], [2, 3], [4, 5]]


def test_what_the_detector_missed_is_filled_with_what_clips_around_it_carried():
    reach, seen = 3, np.ones((3, 14), bool)
    seen[1, :6] = seen[2, 8:] = False
    found = seen.copy()
    found[0, 5:7] = found[1, 9] = False
    video = squares(seen)
    frames, _ = detected(video, found)
    clips = streamed(stepper(perfect, reach), frames, reach)
    filling, missed = Filling(reach), []
    for t, clip in enumerate(clips):
        missed += filling.step(clip.masks[0], clip.ids[0])
        assert len(missed) == max(t + 1 - reach, 0)
    missed += filling.finish()
    order = [0, 2, 1]  # of the objects' ids: the second appears last
    expected = {(t, order[k]): video[k, t] for k, t in zip(*np.nonzero(seen & ~found), strict=True)}
    filled = {(t, i): mask for t, masks in enumerate(missed) for i, mask in masks.items()}
    assert filled.keys() == expected.keys()
    for key, mask in expected.items():
        np.testing.assert_allclose(filled[key], mask, atol=1e-6)


def test_what_few_of_the_clips_carried_is_not_filled():
    filling = Filling(1)
    sure, weak = np.ones((1, 3, 2, 2), np.float32), np.full((1, 3, 2, 2), 0.4, np.float32)
    filling.step(sure, np.array([5]))
    filling.step(sure, np.array([-1]))
    assert filling.step(weak, np.array([5]))[0].keys() == {5}  # (1 + 0.4) / 2
    assert filling.finish() == [{}]
    assert Filling(2).finish() == []
