"""The draws of CFBI's training clips."""

import numpy as np
import pytest

from vos_jax.data.clip import Video, first_frame_objects
from vos_jax.data.sampling import CHOOSERS, RejectedClip, reference_and_sequence


def video(masks, annotated=None):
    """A video with these masks; its frames are never asked for."""
    masks = np.asarray(masks, np.uint8)
    annotated = np.ones(len(masks), bool) if annotated is None else annotated
    return Video(
        name="v",
        dataset="d",
        frame_names=[f"{t:05d}" for t in range(len(masks))],
        mask_files=[f"{t}.png" if a else None for t, a in enumerate(annotated)],
        load_frame=lambda t: 1 / 0,
        load_mask=lambda t: masks[t],
        describe=lambda: first_frame_objects(masks[0], len(masks)),
    )


def full(count):
    """Masks of one object that is everywhere."""
    return np.ones((count, 20, 20))


def draws(video, length=5, max_gap=3, count=300):
    rng = np.random.default_rng(0)
    return [reference_and_sequence(video, length, rng, max_gap=max_gap) for _ in range(count)]


def test_the_reference_is_anywhere_and_gaps_are_independent_in_both_directions():
    found = draws(video(full(40)))
    assert {clip[0] for clip in found} == set(range(40))
    gaps = np.diff([clip[1:] for clip in found], axis=1)
    forward = gaps[(gaps > 0).all(axis=1)]
    backward = gaps[(gaps < 0).all(axis=1)]
    assert len(forward) + len(backward) == len(found)
    assert 0.4 < len(forward) / len(found) < 0.6
    for signed in (forward, -backward):
        assert len({tuple(row) for row in signed}) == 27  # all of 1..3 three times


def test_a_sequence_starts_where_it_has_room_and_turns_round_where_there_is_none():
    starts = [clip[1] for clip in draws(video(full(12)), length=3, max_gap=1)]
    assert set(starts) == set(range(12))  # backwards from the last, forwards from the first
    found = draws(video(full(3)), length=5, max_gap=3)
    assert {t for clip in found for t in clip} == {0, 1, 2}
    steps = draws(video(full(3)), length=6, max_gap=1)
    assert {tuple(clip[1:]) for clip in steps} == {(0, 1, 2, 1, 0), (2, 1, 0, 1, 2)}


def test_only_annotated_frames_are_chosen():
    annotated = np.arange(21) % 5 == 0
    found = draws(video(full(21), annotated), length=3, max_gap=1)
    assert {t for clip in found for t in clip} == {0, 5, 10, 15, 20}
    assert {abs(b - a) for _, a, b in found} == {5}


def test_the_reference_has_foreground_wherever_five_tries_find_some():
    masks = full(10)
    masks[1:] = 0
    masks[1:, :10] = 1  # 200 pixels: not more
    masks[5] = 1
    few = np.mean([clip[0] in (0, 5) for clip in draws(video(masks))])
    assert 0.55 < few < 0.8  # 1 - 0.8^5 = 0.67; without tries 0.2
    masks[:] = 255  # void is no foreground, and a draw ends all the same
    assert {len(clip) for clip in draws(video(masks), count=5)} == {5}


def test_every_object_of_the_sequence_is_in_the_reference_wherever_five_draws_find_it():
    masks = full(20)
    masks[10:, :, :10] = 2  # a second object enters
    found = np.array(draws(video(masks), length=3, max_gap=1, count=400))
    shown = (found[:, 1:].max(axis=1) < 10) | (found[:, 0] >= 10)
    assert shown.mean() > 0.97  # without further draws 0.73
    assert (found[:, 1:].max(axis=1) >= 10).mean() > 0.3  # late frames are not avoided


def test_a_video_with_one_annotated_frame_is_rejected_and_a_single_frame_no_clip():
    with pytest.raises(RejectedClip, match="d/v has 1 annotated frames, .*sequence needs 2"):
        draws(video(full(3), np.array([True, False, False])), count=1)
    with pytest.raises(ValueError, match=r"clip\.frames is 1"):
        draws(video(full(3)), length=1, count=1)
    assert CHOOSERS["reference_and_sequence"] is reference_and_sequence
