"""The streaming segmenter against the rollout, and its promises about ids and compilations."""

import gc

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.shrunk import quick_compilation
from tests.systems.stm.cases import TINY
from vos_jax.inference.rollout import rollout
from vos_jax.inference.streaming import VideoSegmenter, compiled
from vos_jax.systems.base import one_hot
from vos_jax.systems.build import build_model, init_variables


def stream(model, variables, frames, given, **settings):
    """Labels and probabilities of every frame; `given` maps frame number -> label map."""
    segmenter = VideoSegmenter(model, variables, **settings)
    steps = [
        (segmenter.step(frame, given.get(t)), segmenter.probabilities())
        for t, frame in enumerate(frames)
    ]
    return [np.stack(x) for x in zip(*steps, strict=True)] if len(given) == 1 else steps


def test_streaming_equals_rollout(tiny_feelvos, clip):
    model, variables = tiny_feelvos
    frames, masks = clip
    labels, probabilities = stream(model, variables, frames, {0: masks[0]})
    shown = one_hot(jnp.asarray(masks), 2)[None]
    predictions, believed, _ = jax.jit(
        lambda f, m: rollout(model, variables, f, m, jnp.ones((1, 2), bool))
    )(frames[None], shown)
    np.testing.assert_array_equal(labels[1:], np.argmax(believed[:, 0], axis=1))
    expected = jax.vmap(lambda p: model.probabilities(p, (40, 56)))(predictions)[:, 0]
    np.testing.assert_allclose(probabilities[1:], expected, atol=1e-5)
    assert len(np.unique(labels[1:])) > 1  # otherwise the comparison would say little


def test_streaming_equals_rollout_when_an_object_appears_later(tiny_feelvos, clip):
    model, variables = tiny_feelvos
    frames, masks = clip
    first, later = np.where(masks[0] == 2, 0, masks[0]), np.where(masks[3] == 1, 0, masks[3])
    steps = stream(model, variables, frames, {0: first, 3: later})
    given = np.zeros((1, 6, 2), bool)
    given[0, 0, 0] = given[0, 3, 1] = True
    _, believed, _ = rollout(
        model,
        variables,
        frames[None],
        one_hot(jnp.asarray(masks), 2)[None].at[0, 0].set(one_hot(jnp.asarray(first), 2)),
        jnp.ones((1, 2), bool),
        given=jnp.asarray(given),
    )
    for t in range(1, 6):
        np.testing.assert_array_equal(steps[t][0], np.argmax(believed[t - 1, 0], axis=0))
    np.testing.assert_array_equal(steps[3][0][later == 2], 2)  # the given mask is pasted
    assert [len(p) for _, p in steps] == [2, 2, 2, 3, 3, 3]


def test_padded_slots_change_nothing(tiny_feelvos, clip):
    model, variables = tiny_feelvos
    frames, masks = clip
    labels, probabilities = stream(model, variables, frames, {0: masks[0]})
    padded_labels, padded = stream(model, variables, frames, {0: masks[0]}, slots=8)
    np.testing.assert_array_equal(labels, padded_labels)
    np.testing.assert_allclose(probabilities, padded, atol=1e-6)


def test_any_ids_come_out_as_they_went_in(tiny_feelvos, clip):
    model, variables = tiny_feelvos
    frames, masks = clip
    table = np.array([0, 200, 7], np.uint8)
    labels, _ = stream(model, variables, frames, {0: masks[0]})
    renamed, _ = stream(model, variables, frames, {0: table[masks[0]]})
    np.testing.assert_array_equal(renamed, table[labels])


def test_a_second_video_of_the_same_shape_compiles_nothing(tiny_feelvos, clip):
    model, variables = tiny_feelvos
    frames, masks = clip
    stream(model, variables, frames, {0: masks[0]})
    _, step, _ = compiled(model)
    before = step._cache_size()
    one_object = np.where(masks[0] == 2, 0, masks[0])
    stream(model, variables, np.concatenate([frames, frames]), {0: masks[0]})
    stream(model, variables, frames[::-1], {0: one_object}, slots=2)
    assert step._cache_size() == before


def test_an_object_without_pixels_at_stride_4_is_never_predicted(tiny_feelvos, clip):
    model, variables = tiny_feelvos
    frames, masks = clip
    first = masks[0].copy()
    first[1, 1] = 3  # one pixel between the stride-4 samples
    labels, _ = stream(model, variables, frames, {0: first})
    assert not (labels[1:] == 3).any()


def test_the_first_mask_comes_back_as_given(tiny_feelvos, clip):
    model, variables = tiny_feelvos
    frames, masks = clip
    first = masks[0].copy()
    first[0] = 255
    np.testing.assert_array_equal(VideoSegmenter(model, variables).step(frames[0], first), first)


@pytest.mark.parametrize(
    ("frame", "masks", "message"),
    [
        ((40, 56, 3), None, "first frame needs masks"),
        ((40, 56, 3), np.zeros((40, 56), np.uint8), "holds no object"),
        (
            (40, 56, 3),
            np.ones((20, 28), np.uint8),
            r"frame's size \(40, 56\), found shape \(20, 28\)",
        ),
        ((40, 56, 3), np.full((40, 56), 0.5), "integer ids"),
        ((40, 56), np.ones((40, 56), np.uint8), r"expected a frame uint8 \[H, W, 3\]"),
    ],
)
def test_bad_input_is_refused_with_what_was_found(tiny_feelvos, frame, masks, message):
    model, variables = tiny_feelvos
    with pytest.raises(ValueError, match=message):
        VideoSegmenter(model, variables).step(np.zeros(frame, np.uint8), masks)


def test_a_frame_of_another_size_is_refused(tiny_feelvos, clip):
    model, variables = tiny_feelvos
    frames, masks = clip
    segmenter = VideoSegmenter(model, variables)
    segmenter.step(frames[0], masks[0])
    with pytest.raises(ValueError, match="40x56.*found 20x56"):
        segmenter.step(frames[1][:20])


def test_a_long_stream_compiles_once_and_nothing_grows(clip):
    frames, masks = clip
    with quick_compilation():
        model = build_model({**TINY, "capacity": 6})
        segmenter = VideoSegmenter(model, init_variables(model, jax.random.key(0)))
        start, step, _ = compiled(model)
        memory, alive, kept = [], [], []
        gc.collect()  # so that no earlier test's arrays go in the meantime
        for t in range(120):
            segmenter.step(frames[t % 6], masks[0] if t == 0 else None)
            memory.append(sum(x.nbytes for x in jax.tree.leaves(segmenter._memory)))
            alive.append(sum(x.nbytes for x in jax.live_arrays()))
            numbers = np.asarray(segmenter._memory.bank.number[0])
            kept.append(sorted(numbers[numbers > 0] - 1))
    assert start._cache_size() == step._cache_size() == 1
    assert len(set(memory)) == 1 and len(set(alive[2:])) == 1
    assert max(map(len, kept)) == 6
    for t, numbers in enumerate(kept):
        assert numbers[0] == 0 and numbers[-1] == t and all(n % 2 == 0 for n in numbers[:-1])
