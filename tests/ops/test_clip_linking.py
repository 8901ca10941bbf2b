"""Linking of clips: equal to the equations, exact on perfect masks, of one program."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.fixtures import load_npz
from vos_jax.ops.clip_linking import link, link_clips, match_scores, start_window

GRID = (12, 40)


def golden_clips():
    golden = load_npz("maskprop_equations", "case_a")
    return golden, [golden[f"clip{t}_masks"] for t in range(9)]


@pytest.mark.parametrize("threshold", [0.3, 0.6])
def test_ids_match_the_equations(threshold):
    golden, clips = golden_clips()
    for t, ids in enumerate(link_clips(clips, 2, threshold)):
        np.testing.assert_array_equal(ids, golden[f"ids_thr{threshold}_f{t}"])


def test_scores_match_the_equations():
    golden, clips = golden_clips()
    slots, window, found = 3, start_window(2, 3, clips[0].shape[2:]), {}
    step = jax.jit(lambda *x: (match_scores(*x[:2], x[3]), link(*x, 0.3)[0]))
    for t, clip in enumerate(clips):
        padded = np.zeros((slots, *clip.shape[1:]), np.float32)
        padded[: len(clip)] = clip
        real = np.abs(t + np.arange(-2, 3) - 4) <= 4
        found[t], window = step(window, padded, np.arange(slots) < len(clip), real)
    ours = [found[a][i, b % 4, j] for a, i, b, j in golden["match_index"]]
    np.testing.assert_allclose(ours, golden["match_score"], atol=1e-5)


def generated(objects, frames, reach, seen):
    """Clips of squares that move over each other; seen bool [objects, frames]; and their ids."""
    rng = np.random.default_rng(0)
    start, speed = rng.integers(0, 30, objects), rng.choice([-1, 1], objects)
    video = np.zeros((objects, frames + 2 * reach, *GRID), np.float32)
    for k, t in np.ndindex(objects, frames):
        if seen[k, t]:
            x = (start[k] + speed[k] * t) % 34
            video[k, t + reach, 2 * k : 2 * k + 3, x : x + 6] = 1
    shown = [np.flatnonzero(seen[:, t]) for t in range(frames)]
    return [video[k, t : t + 2 * reach + 1] for t, k in enumerate(shown)], shown


def renumbered(shown):
    """Identities by order of appearance."""
    order = list(dict.fromkeys(np.concatenate(shown).tolist()))
    return [[order.index(k) for k in frame] for frame in shown]


@pytest.mark.parametrize("exclusive", [False, True])
def test_identities_are_found_exactly_through_births_deaths_and_crossings(exclusive):
    seen = np.ones((5, 25), bool)
    seen[1, :7] = seen[2, 15:] = seen[3, :12] = seen[3, 20:] = False
    clips, shown = generated(5, 25, 3, seen)
    found = link_clips(clips, 3, 0.3, exclusive)
    assert [ids.tolist() for ids in found] == renumbered(shown)


@pytest.mark.parametrize("reach, bridged", [(6, 5), (3, 2), (2, 1)])
def test_an_object_hidden_for_up_to_reach_minus_one_frames_keeps_its_id(reach, bridged):
    history = 2 * reach + 1
    for hidden in range(1, reach + 1):
        seen = np.ones((1, history + hidden + 2), bool)
        seen[0, history : history + hidden] = False
        clips, _ = generated(1, seen.shape[1], reach, seen)
        found = link_clips(clips, reach, 0.3)
        assert found[-2].tolist() == ([0] if hidden <= bridged else [1])


@pytest.mark.parametrize("reach", [2, 3, 6])
def test_without_empty_frames_one_frame_of_history_is_enough(reach):
    """For gaps that both clips see beyond."""
    for hidden in range(1, reach + 2):
        seen = np.ones((1, hidden + 3), bool)
        seen[0, 1 : 1 + hidden] = False
        clips, _ = generated(1, hidden + 3, reach, seen)
        found = link_clips(clips, reach, 0.3, skip_empty=True)
        assert found[1 + hidden].tolist() == ([0] if hidden < reach else [1])


def test_frames_that_both_leave_empty_count_only_in_the_equations_form():
    golden, clips = golden_clips()
    literal, skipped = (link_clips(clips, 2, 0.3, skip_empty=skip) for skip in (False, True))
    assert [len(x) for x in literal] == [len(x) for x in skipped]
    mask = np.zeros((1, 5, *GRID), np.float32)
    mask[:, 1:4, :6, :6] = 1  # it is hidden in the first and last frame of the clip
    real = np.ones(5, bool)
    window, _ = link(start_window(2, 1, GRID), mask, real[:1], real, 0.3)
    window = window.replace(time=window.centre[0])  # the same frames again
    for skip, expected in ((False, 3 / 5), (True, 1.0)):
        assert match_scores(window, mask, real, skip)[0, 0, 0] == pytest.approx(expected)


def test_one_frame_of_history_is_too_little_for_a_long_gap():
    """Two of the seven frames that the clips before and after five hidden ones share agree."""
    seen = np.array([[True] + [False] * 5 + [True] * 7])
    clips, _ = generated(1, 13, 6, seen)
    assert link_clips(clips, 6, 0.3)[6].tolist() == [1]
    assert link_clips(clips, 6, 0.28)[6].tolist() == [0]


def test_exclusive_ids_go_to_the_best_match_and_the_others_take_their_next():
    mask = np.zeros((1, 3, *GRID), np.float32)
    mask[..., :10, :10] = 1
    half = mask.copy()
    half[..., :5] = 0
    first, second = mask, np.concatenate([half, mask])
    assert [x.tolist() for x in link_clips([first, second], 1, 0.3)] == [[0], [0, 0]]
    assert [x.tolist() for x in link_clips([first, second], 1, 0.3, True)] == [[0], [1, 0]]


def test_without_reach_every_instance_is_new_and_videos_may_be_empty():
    clips = [np.ones((2, 1, *GRID), np.float32)] * 3
    assert [x.tolist() for x in link_clips(clips, 0, 0.3)] == [[0, 1], [2, 3], [4, 5]]
    assert link_clips([], 2, 0.3) == []
    nothing = link_clips([np.zeros((0, 5, *GRID))] * 2, 2, 0.3)
    assert [len(x) for x in nothing] == [0, 0]


def test_a_video_of_any_length_is_one_program():
    step = jax.jit(lambda *x: link(*x, 0.3))
    window, real = start_window(2, 3, GRID), np.ones(5, bool)
    for t in range(12):
        clip = jnp.full((3, 5, *GRID), 0.1 * (t % 5))
        window, _ = step(window, clip, np.arange(3) < t % 4, real)
    assert step._cache_size() == 1


def test_clips_of_another_length_are_refused():
    with pytest.raises(ValueError, match=r"clips\[1\]: expected masks \[n, 5, h, w\].*\(1, 3, 12"):
        link_clips([np.zeros((1, 5, *GRID)), np.zeros((1, 3, *GRID))], 2, 0.3)
