"""Invariants of STM on a small network; the released numbers are in test_stm_release.py."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from tests.shrunk import quick_compilation
from tests.systems.stm.cases import TINY, tiny_stm
from tests.systems.streams import stream
from vos_jax.inference.rollout import rollout
from vos_jax.inference.streaming import compiled
from vos_jax.systems.base import one_hot
from vos_jax.systems.build import build_model, variable_shapes
from vos_jax.systems.stm.model import STM, Prediction, soft_aggregation
from vos_jax.train.objective import make_objective


@pytest.fixture(scope="module")
def quickly():
    with quick_compilation():
        yield


@pytest.fixture(scope="module")
def tiny(quickly):
    return tiny_stm()


def _rollout(model, variables, frames, masks, given=None):
    """Probabilities [T-1, N+1, H, W] of a clip, with masks as labels."""
    inputs = np.stack([model.preprocess(frame) for frame in frames])[None]
    masks = one_hot(jnp.asarray(masks), 2)[None]

    @jax.jit
    def run(variables, inputs, masks):
        valid = jnp.ones((1, 2), bool)
        return rollout(model, variables, inputs, masks, valid, given=given)[1]

    return run(variables, inputs, masks)[:, 0]


@pytest.fixture(scope="module")
def streamed(tiny, clip):
    model, variables = tiny
    frames, masks = clip
    labels, probabilities = stream(model, variables, frames, {0: masks[0]})
    shares = np.stack(probabilities[1:])
    assert shares[:, 1:].max() > 0.6 and shares[:, 1:].min() < 0.4  # otherwise it says little
    assert np.abs(shares[-1] - shares[0]).max() > 0.05
    return labels, probabilities


def test_streaming_equals_rollout(tiny, clip, streamed):
    expected = _rollout(*tiny, *clip)
    np.testing.assert_allclose(np.stack(streamed[1][1:]), expected, atol=1e-5)


def test_a_short_clip_equals_the_beginning_of_a_long_one(tiny, clip, streamed):
    frames, masks = clip
    found = _rollout(*tiny, frames[:3], masks[:3])  # no loop, and its last frame is not remembered
    np.testing.assert_allclose(np.stack(streamed[1][1:3]), found, atol=1e-5)


def test_streaming_equals_rollout_when_an_object_appears_later(tiny, clip):
    model, variables = tiny
    frames, masks = clip
    first, later = np.where(masks[0] == 2, 0, masks[0]), np.where(masks[3] == 1, 0, masks[3])
    labels, probabilities = stream(model, variables, frames, {0: first, 3: later})
    given = np.zeros((1, 6, 2), bool)
    given[0, 0, 0] = given[0, 3, 1] = True
    expected = _rollout(model, variables, frames, masks, jnp.asarray(given))
    for t in range(1, 6):
        known = len(probabilities[t])
        assert known == (2 if t < 3 else 3)
        np.testing.assert_allclose(probabilities[t], expected[t - 1, :known], atol=1e-5)
    np.testing.assert_array_equal(labels[3][later == 2], 2)  # the given mask is pasted


def test_padded_slots_change_neither_probabilities_nor_ids(tiny, clip, streamed):
    model, variables = tiny
    frames, masks = clip
    labels, probabilities = stream(model, variables, frames, {0: masks[0]}, slots=8)
    np.testing.assert_array_equal(labels, streamed[0])
    np.testing.assert_allclose(np.stack(probabilities), np.stack(streamed[1]), atol=1e-5)


def test_memory_that_is_not_used_changes_nothing(tiny, clip, streamed):
    model, variables = tiny
    frames, masks = clip
    _, probabilities = stream(model.clone(capacity=9), variables, frames, {0: masks[0]})
    np.testing.assert_allclose(np.stack(probabilities), np.stack(streamed[1]), atol=1e-5)


def test_eviction_bounds_the_memory_and_shows_in_the_result(tiny, clip, streamed):
    model, variables = tiny
    frames, masks = clip
    _, probabilities = stream(model.clone(capacity=2), variables, frames, {0: masks[0]})
    different = np.abs(np.stack(probabilities) - np.stack(streamed[1])).max(axis=(1, 2, 3))
    assert np.all(different[:4] < 1e-5) and different[4:].max() > 1e-3


def test_permuted_ids_permute_the_probabilities(tiny, clip, streamed):
    frames, masks = clip
    order = np.array([0, 2, 1], np.uint8)
    _, probabilities = stream(*tiny, frames, {0: order[masks[0]]})
    expected = np.stack(streamed[1])[:, order]
    np.testing.assert_allclose(np.stack(probabilities), expected, atol=1e-5)


def test_a_longer_video_of_fewer_objects_compiles_nothing(tiny, clip, streamed):
    model, variables = tiny
    frames, masks = clip
    _, step, _ = compiled(model)
    before = step._cache_size()
    one = np.where(masks[0] == 2, 0, masks[0])
    stream(model, variables, np.concatenate([frames] * 3), {0: one}, slots=2)
    assert step._cache_size() == before > 0


def test_padded_slots_change_neither_loss_nor_gradients(tiny, clip):
    """Of the heads and the decoder, which see every object; that compiles quickly."""
    model, variables = tiny
    frames, masks = clip
    frames = np.stack([model.preprocess(frame) for frame in frames])[None, :3]
    masks = np.pad(masks, ((0, 0), (4, 4), (4, 4)), constant_values=255)[None, :3]
    model = model.clone(length=3, detach=True)
    objective = make_objective(model, {"num_given": 1, "teacher_forcing_steps": 0}, {})
    flat = traverse_util.flatten_dict(variables["params"], sep="/")
    trained = {k: x for k, x in flat.items() if "heads" in k or k.startswith("decoder")}

    @jax.jit
    def run(trained, valid):
        def loss(trained):
            params = traverse_util.unflatten_dict({**flat, **trained}, sep="/")
            batch = {"frames": frames, "masks": masks, "valid": valid}
            args = {**variables, "params": params}, batch, jnp.int32(0), jax.random.key(0)
            return objective(*args)[0].sum()

        return jax.value_and_grad(loss)(trained)

    found = [run(trained, np.arange(n)[None] < 2) for n in (2, 4)]
    np.testing.assert_allclose(found[0][0], found[1][0], rtol=1e-5)
    for name, x in found[0][1].items():
        assert np.abs(x).max() > 0, name
        atol = 1e-4 * np.abs(x).max()
        np.testing.assert_allclose(found[1][1][name], x, rtol=0, atol=atol, err_msg=name)


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
        variable_shapes(build_model({**TINY, **fields}))


def test_frames_that_are_not_padded_are_refused(tiny):
    model, variables = tiny
    encode = functools.partial(model.apply, method=model.encode)
    with pytest.raises(ValueError, match="multiples of 16, found 40x56"):
        encode(variables, jnp.zeros((1, 40, 56, 3)))
