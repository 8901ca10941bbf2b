"""What STM alone promises, on a small network; the released numbers are in test_release.py."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.systems.promises import CLOSE, stream
from tests.tiny import quick_compilation, tiny_section, tiny_system
from vos_jax.inference.streaming import VideoSegmenter
from vos_jax.systems.build import build_model, variable_shapes
from vos_jax.systems.stm.model import STM, Prediction, soft_aggregation


@pytest.fixture(scope="module")
def quickly():
    with quick_compilation():
        yield


@pytest.fixture(scope="module")
def tiny(quickly):
    return tiny_system("stm")


@pytest.fixture(scope="module")
def streamed(tiny, clip):
    """Probabilities of the clip, whose frames differ."""
    frames, masks = clip
    _, probabilities = stream(*tiny, frames, {0: masks[0]})
    assert np.abs(probabilities[-1] - probabilities[1]).max() > 100 * CLOSE
    return probabilities


def test_masks_are_remembered_as_soft_as_they_are():
    assert STM().traits.soft_feedback


def test_memory_that_is_not_used_changes_nothing(tiny, clip, streamed):
    model, variables = tiny
    frames, masks = clip
    _, probabilities = stream(model.clone(capacity=9), variables, frames, {0: masks[0]})
    np.testing.assert_allclose(probabilities, streamed, atol=CLOSE)


def test_eviction_bounds_the_memory_and_shows_in_the_result(tiny, clip, streamed):
    model, variables = tiny
    frames, masks = clip
    _, probabilities = stream(model.clone(capacity=2), variables, frames, {0: masks[0]})
    different = np.abs(probabilities - streamed).max(axis=(1, 2, 3))
    assert np.all(different[:4] < CLOSE) and different[4:].max() > 10 * CLOSE


def test_a_bounded_memory_keeps_the_first_the_previous_and_spread_frames(tiny, clip):
    _, variables = tiny
    frames, masks = clip
    model = build_model(tiny_section("stm", capacity=6))
    segmenter, kept = VideoSegmenter(model, variables), []
    for t in range(120):
        segmenter.step(frames[t % 6], masks[0] if t == 0 else None)
        numbers = np.asarray(segmenter._memory.bank.number[0])
        kept.append(sorted(numbers[numbers > 0] - 1))
    assert max(map(len, kept)) == 6
    for t, numbers in enumerate(kept):
        assert numbers[0] == 0 and numbers[-1] == t and all(n % 2 == 0 for n in numbers[:-1])


def test_bfloat16_halves_the_memory_and_keeps_logits_in_float32(tiny):
    model, variables = tiny
    model = model.clone(dtype="bfloat16")

    def run(variables, frames, masks):
        features = model.apply(variables, frames, method=model.encode)
        valid = jnp.ones((1, 2), bool)
        memory = model.apply(variables, features, masks, valid, method=model.start)
        return memory, model.apply(variables, memory, features, method=model.segment)

    memory, prediction = jax.eval_shape(
        run, variables, jnp.zeros((1, 48, 64, 3), jnp.uint8), jnp.zeros((1, 3, 40, 56))
    )
    assert memory.bank.keys.dtype == memory.bank.values.dtype == jnp.bfloat16
    assert prediction.logits.dtype == jnp.float32


@pytest.mark.parametrize("present", [(True, True), (True, False)])
def test_aggregation_is_the_released_softmax_over_eleven_channels(present):
    logits = 3 * np.random.default_rng(0).normal(size=(3, 2, 4, 4, 2)).astype(np.float32)
    logits[1, 0, ..., 1] += 60  # one object certain
    logits[2, ..., 1] -= 60  # background certain
    prediction = Prediction(jnp.asarray(logits), jnp.array([present] * 3))
    found = STM().apply({}, prediction, (16, 16), method=STM.probabilities)
    margin = jnp.asarray(logits[..., 1] - logits[..., 0])
    margin = jax.image.resize(margin, (3, 2, 16, 16), "bilinear")
    own = np.asarray(jax.nn.sigmoid(margin), np.float64)[:, np.array(present)]
    p = np.zeros((3, 11, 16, 16))
    p[:, 0], p[:, 1 : 1 + own.shape[1]] = np.prod(1 - own, axis=1), own
    p = np.clip(p, np.float32(1e-7), 1 - np.float32(1e-7))
    odds = p / (1 - p)
    expected = (odds / odds.sum(axis=1, keepdims=True))[:, : 1 + own.shape[1]]
    np.testing.assert_allclose(found[:, : expected.shape[1]], expected, atol=2e-6)
    assert np.all(found[:, expected.shape[1] :] == 0)


def test_aggregated_logits_have_finite_gradients_where_objects_are_certain():
    certain = jnp.asarray([0.0, 1e-9, 0.5, 1.0]).reshape(1, 1, 2, 2).repeat(2, axis=1)
    present = jnp.array([[True, False]])

    def total(p):
        return jnp.exp(jax.nn.log_softmax(soft_aggregation(p, present), axis=1))[:, 1].sum()

    gradient = jax.grad(total)(certain)
    assert (
        np.all(np.isfinite(gradient)) and gradient[0, 0, 1, 0] > 0 and np.all(gradient[0, 1] == 0)
    )


def test_frames_are_padded_with_black_the_larger_part_after(clip):
    frame = np.full((101, 147, 3), 7, np.uint8)
    padded = STM().preprocess(frame)
    assert padded.shape == (112, 160, 3) and padded.sum() == frame.sum()
    np.testing.assert_array_equal(padded[5:106, 6:153], frame)


def test_shrunk_frames_give_probabilities_of_the_original_size(tiny, clip):
    model, variables = tiny
    frames, masks = clip
    model = model.clone(short_side=32)
    assert model.preprocess(frames[0]).shape == (32, 48, 3)  # 32x45, padded
    labels, probabilities = stream(model, variables, frames[:2], {0: masks[0]})
    assert labels[1].shape == (40, 56) and probabilities[1].shape == (3, 40, 56)
    np.testing.assert_allclose(probabilities[1].sum(axis=0), 1, atol=1e-5)


def test_training_crops_larger_than_the_short_side_are_taken_as_they_are():
    logits = np.random.default_rng(0).normal(size=(1, 2, 12, 16, 2))
    prediction = Prediction(jnp.asarray(logits, jnp.float32), jnp.ones((1, 2), bool))
    plain, shrinking = (
        STM(short_side=side).apply({}, prediction, (48, 64), method=STM.probabilities)
        for side in (0, 32)
    )
    np.testing.assert_array_equal(plain, shrinking)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"backbone": "vgg"}, r"config\.model\.backbone: expected one of .*found 'vgg'"),
        ({"eviction": "random"}, r"config\.model\.eviction: expected one of"),
        ({"capacity": 1}, r"config\.model\.capacity: expected 2 or more"),
    ],
)
def test_wrong_fields_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        variable_shapes(build_model(tiny_section("stm", **fields)))


def test_frames_that_are_not_padded_are_refused(tiny):
    model, variables = tiny
    encode = functools.partial(model.apply, method=model.encode)
    with pytest.raises(ValueError, match="multiples of 16, found 40x56"):
        encode(variables, jnp.zeros((1, 40, 56, 3)))
