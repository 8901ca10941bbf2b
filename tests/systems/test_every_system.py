"""What every system of SYSTEMS promises about its answers; test_every_system_trains has the rest.

One tiny model per system, one size of frames and few numbers of slots, so that the tests share
compiled programs. A new system gets all of this by its entry.
"""

import gc

import jax
import numpy as np
import pytest

from tests.systems import test_every_system_trains  # noqa: F401  its promises count below
from tests.systems.promises import (
    CLOSE,
    PROMISES,
    assert_same,
    compiled_roll,
    is_steady,
    only,
    promise,
    roll,
    says_something,
    stream,
    three_objects,
)
from tests.tiny import lively, quick_compilation, tiny_section, unload_programs
from vos_jax.inference.streaming import VideoSegmenter, compiled
from vos_jax.systems.base import VOSModel
from vos_jax.systems.build import build_model, model_fields, variable_shapes
from vos_jax.systems.table import SYSTEMS, systems_of
from vos_jax.systems.views import Views

LATER = 3  # the frame in which the third object comes
HALF = 0.02  # share of the largest value that eight bits of mantissa may cost
VIEWS = {"scales": (1.3,), "flip": True}  # averages of more scales are in test_views


@pytest.fixture(scope="module", autouse=True)
def quickly():
    with quick_compilation():
        yield


@pytest.fixture(scope="module")
def built(system, clip):
    """The tiny model, and the first lively variables with which its answers say something."""
    model = build_model(tiny_section(system))
    shapes = variable_shapes(model)
    for seed in range(50):
        variables = lively(shapes, seed)
        said = says_something(roll(model, variables, *clip))
        if said and is_steady(model, variables, *clip):
            break
    else:
        raise AssertionError("none of 50 sets of variables: is memory or mask left out?")
    yield model, variables
    compiled_roll.cache_clear()
    unload_programs()  # before the next system


@pytest.fixture(scope="module")
def streamed(built, clip):
    """Answers for the clip's two objects."""
    frames, masks = clip
    return stream(*built, frames, {0: masks[0]})


@pytest.fixture(scope="module")
def joined(built, clip):
    """Answers where the third object comes later, in slots that are there from the beginning."""
    frames, masks = three_objects(clip)
    return stream(*built, frames, {0: only(masks[0], 1, 2), LATER: only(masks[LATER], 3)}, slots=4)


def test_an_exemption_names_a_promise_and_a_reason():
    assert len(PROMISES) > 10
    for name, system in SYSTEMS.items():
        assert system.exempt.keys() <= PROMISES, name
        assert all(len(reason.split()) > 3 for reason in system.exempt.values()), name


@promise
def test_streaming_equals_the_rollout(system, built, clip, streamed):
    expected = roll(*built, *clip)
    assert_same((streamed[0][1:], streamed[1][1:]), (expected.argmax(axis=1), expected))


@promise
def test_a_short_clip_is_the_beginning_of_a_long_one(system, built, clip, streamed):
    """So few frames are no loop, and the last one is not remembered."""
    frames, masks = clip
    np.testing.assert_allclose(roll(*built, frames[:3], masks[:3]), streamed[1][1:3], atol=CLOSE)


@promise
def test_an_object_that_comes_later_is_segmented_as_in_the_rollout(system, built, clip, joined):
    frames, masks = three_objects(clip)
    shown = np.stack([only(labels, 3) if t == LATER else labels for t, labels in enumerate(masks)])
    shown[0] = only(masks[0], 1, 2)
    given = np.zeros((len(frames), 3), bool)
    given[0, :2] = given[LATER, 2] = True
    expected = roll(*built, frames, shown, given)
    assert np.all(expected[: LATER - 1, 3] == 0) and expected[LATER:, 3].max() > 0.1
    kept = [t for t in range(1, len(frames)) if t != LATER]
    np.testing.assert_allclose(joined[1][kept], expected[[t - 1 for t in kept]], atol=CLOSE)
    if built[0].traits.pastes:
        np.testing.assert_array_equal(joined[0][LATER][masks[LATER] == 3], 3)


@promise
def test_a_memory_that_grows_changes_nothing_for_the_objects_in_it(system, built, clip, joined):
    """Two slots become four and one reference frame two, by zero-padding."""
    frames, masks = three_objects(clip)
    given = {0: only(masks[0], 1, 2), LATER: only(masks[LATER], 3)}
    assert_same(stream(*built, frames, given), joined)


@promise
def test_padded_slots_change_nothing(system, built, clip, streamed):
    frames, masks = clip
    assert_same(stream(*built, frames, {0: masks[0]}, slots=4), streamed)


@promise
def test_ids_may_be_any_and_come_in_any_order(system, built, clip):
    frames, masks = three_objects(clip)
    table = np.array([0, 200, 7, 31], np.uint8)
    labels, probabilities = stream(*built, frames, {0: masks[0]})
    assert probabilities[1:].std(axis=(2, 3)).mean(axis=0).min() > 0.01
    order = np.argsort(table)
    expected = table[labels], probabilities[:, order]
    assert_same(stream(*built, frames, {0: table[masks[0]]}), expected)


@promise
def test_a_step_compiles_once_for_any_length_and_number_of_objects_in_a_bucket(
    system, built, clip, streamed
):
    frames, masks = three_objects(clip)
    functions = compiled(built[0])[:2]

    def programs():
        return [function._cache_size() for function in functions]

    for function in functions:
        function.clear_cache()  # of other tests
    stream(*built, frames[:3], {0: only(masks[0], 1, 2)})
    assert programs() == [1, 1]
    stream(*built, np.concatenate([frames, frames]), {0: only(masks[0], 2, 3)})
    stream(*built, frames[:2], {0: only(masks[0], 1)}, slots=2)
    assert programs() == [1, 1]
    stream(*built, frames[:2], {0: masks[0]})  # another bucket
    stream(*built, frames[:2], {0: only(masks[0], 1)}, slots=3)
    assert programs() == [2, 2]


@promise
def test_a_long_stream_does_not_grow(system, built, clip, streamed):
    frames, masks = clip
    given = None if built[0].traits.guidance == "none" else masks[0]
    segmenter = VideoSegmenter(*built)
    gc.collect()  # so that no earlier test's arrays go in the meantime
    memory, alive = [], []
    for t in range(50):
        segmenter.step(frames[t % len(frames)], given if t == 0 else None)
        memory.append(jax.tree.map(lambda x: (x.shape, x.dtype), segmenter._memory))
        alive.append(sum(x.nbytes for x in jax.live_arrays()))
    assert all(shapes == memory[0] for shapes in memory)
    assert len(set(alive[2:])) == 1


@promise
def test_one_view_is_the_system_itself(system, built, clip, streamed):
    model, variables = built
    frames, masks = clip
    found = stream(Views(model), variables, frames[:3], {0: masks[0]})
    assert_same(found, [x[:3] for x in streamed])


@promise
def test_views_of_a_mirrored_video_give_the_mirrored_results(system, built, clip, streamed):
    """Also for an object that comes later."""
    model, variables = built
    frames, masks = clip[0][:4], clip[1]
    given = {0: only(masks[0], 1), 1: only(masks[1], 2)}
    views = Views(model, **VIEWS)
    found = stream(views, variables, frames, given, slots=2)
    mirrored = {t: labels[:, ::-1] for t, labels in given.items()}
    other = stream(views, variables, frames[:, :, ::-1], mirrored, slots=2)
    assert_same([x[..., ::-1] for x in other], found)
    assert found[1][2:, -1].max() > 0.1
    _, step, *_ = compiled(views)
    programs = 1 if model.traits.guidance == "none" else 2  # with masks and without
    assert step._cache_size() == programs
    _, plain = stream(model, variables, frames[:, :, ::-1], {0: masks[0][:, ::-1]})
    assert np.abs(plain[..., ::-1] - streamed[1][:4]).max() > 20 * CLOSE  # not so without views


@promise
def test_bfloat16_answers_almost_as_float32(system, built, clip, streamed):
    """On average: what is rounded near a decision moves single pixels by more."""
    model, variables = built
    frames, masks = clip
    half = model.clone(dtype="bfloat16")
    found = roll(half, variables, frames[:2], masks[:2])
    assert found.dtype == np.float32
    difference = np.abs(found - streamed[1][1:2])
    assert 0.01 * HALF < difference.mean() < HALF * streamed[1][1].max()


@promise
def test_evidence_is_a_map_for_every_object_and_leaves_no_trace(system, built, clip, streamed):
    """From 0 to 1, not flat, finite; and the answers are those without it."""
    frames, masks = clip
    segmenter, labels = VideoSegmenter(*built), []
    given = None if built[0].traits.guidance == "none" else masks[0]
    assert segmenter.evidence(frames[0]) == {}
    for t, frame in enumerate(frames[:3]):
        seen = segmenter.evidence(frame)
        labels.append(segmenter.step(frame, given if t == 0 else None))
    for name, maps in seen.items():
        assert maps.shape[0] == 2 and maps.dtype == np.float32 and maps.ndim == 3, name
        assert np.isfinite(maps).all() and maps.min() >= -1 and maps.max() <= 1 + CLOSE, name
        assert maps.std() > 0, name
    declares = type(built[0]).evidence is not VOSModel.evidence
    assert bool(seen) == declares
    np.testing.assert_array_equal(labels, streamed[0][:3])


def test_every_system_has_a_scale_for_views():
    for name, system in systems_of("vos").items():
        assert "scale" in model_fields(system.model), name


@promise
def test_optimised_code_answers_as_unoptimised_code(system, built, clip, streamed):
    """Without any compilation it would take minutes."""
    frames, masks = clip
    with quick_compilation(False):
        found = roll(*built, frames[:2], masks[:2])
    np.testing.assert_allclose(found, streamed[1][1:2], rtol=0, atol=CLOSE)
