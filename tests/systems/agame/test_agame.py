"""A-GAME: the ablation's switches, what is fed back, aggregation, padding."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.tiny import lively, quick_compilation, tiny_section
from vos_jax.inference.rollout import rollout
from vos_jax.systems.agame.model import AGAME, Prediction, aggregation
from vos_jax.systems.base import one_hot
from vos_jax.systems.build import build_model, variable_shapes


@pytest.fixture(scope="module", autouse=True)
def quickly():
    with quick_compilation():
        yield


def _tiny(**fields):
    return build_model({**tiny_section("agame"), **fields})


@functools.cache
def _margins(**fields):
    """Final margins [T - 1, N, 4h, 4w] of a clip; of their squares' sum the heads' gradient."""
    model = _tiny(**fields)
    variables = lively(variable_shapes(model), 0)
    rng = np.random.default_rng(0)
    frames = jnp.asarray(rng.integers(0, 255, (1, 3, 48, 64, 3)), jnp.uint8)
    labels = jnp.zeros((1, 3, 48, 64), jnp.int32).at[:, :, 8:24, 8:40].set(1)

    backbone = variables["params"]["backbone_network"]
    heads = {k: v for k, v in variables["params"].items() if k != "backbone_network"}

    def total(heads):
        used = {**variables, "params": {"backbone_network": backbone, **heads}}
        found, _ = rollout(model, used, frames, one_hot(labels, 2), jnp.ones((1, 2), bool))
        margins = found.fine[:, 0, ..., 1] - found.fine[:, 0, ..., 0]
        return jnp.square(margins).sum(), margins

    (_, margins), gradient = jax.jit(jax.value_and_grad(total, has_aux=True))(heads)
    return np.asarray(margins), gradient


@pytest.mark.parametrize(
    "fields",
    [
        {"components": 2},
        {"update_rate": 0.0},
        {"scores": "posterior"},
        {"appearance": False},
        {"mask_propagation": False},
        {"fit": "paper"},
        {"fed_back": "coarse"},
    ],
    ids=lambda fields: "-".join(f"{k}={v}" for k, v in fields.items()),
)
def test_a_switch_changes_the_answer_and_leaves_gradients_finite(fields):
    """Also of a slot whose object has no pixel."""
    found, gradient = _margins(**fields)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    if {"update_rate", "fed_back"} & fields.keys():  # seen from the second predicted frame on
        np.testing.assert_allclose(found[0], _margins()[0][0], atol=1e-5)
        found, plain = found[1:], _margins()[0][1:]
    else:
        plain = _margins()[0]
    assert np.abs(found - plain).max() > 1e-4 * np.abs(plain).max()


def test_without_end_to_end_the_answer_is_the_same_and_fitting_has_no_gradient():
    found, gradient = _margins(end_to_end=False)
    np.testing.assert_allclose(found, _margins()[0], rtol=0, atol=1e-5 * np.abs(found).max())
    assert not np.abs(gradient["regulariser"]).max()
    assert np.abs(_margins()[1]["regulariser"]).max() > 0


def test_nothing_to_go_by_is_refused():
    with pytest.raises(ValueError, match="appearance and mask_propagation are both False"):
        variable_shapes(_tiny(appearance=False, mask_propagation=False))
    with pytest.raises(ValueError, match=r"config.model.fit: expected one of .*'paper'.* 'papre'"):
        variable_shapes(_tiny(fit="papre"))


def test_the_background_is_the_least_that_an_object_leaves():
    """The odds of the release, in its own words of two objects."""
    own = jnp.array([0.7, 0.4])
    margin = jnp.log(own / (1 - own))[None, :, None, None]
    odds = np.array([0.3 / 0.7, 0.7 / 0.3, 0.4 / 0.6])
    found = aggregation(margin, jnp.ones((1, 2), bool))[0, :, 0, 0]
    np.testing.assert_allclose(found, odds / odds.sum(), rtol=1e-5)
    alone = aggregation(margin, jnp.array([[True, False]]))[0, :, 0, 0]
    np.testing.assert_allclose(alone, np.array([0.09, 0.49, 0]) / 0.58, rtol=1e-5)
    nobody = aggregation(margin, jnp.zeros((1, 2), bool))[0, :, 0, 0]
    np.testing.assert_allclose(nobody, [1, 0, 0], atol=1e-6)


@pytest.mark.parametrize("aggregate", [True, False])
def test_what_is_fed_back_is_the_mean_over_a_cell(aggregate):
    """Of one object: sharpened by the aggregation, or as it is (the release's DAVIS-2016)."""
    probability = 0.7
    fine = jnp.broadcast_to(
        jnp.array([0.0, np.log(probability / (1 - probability))]), (1, 1, 8, 12, 2)
    )
    prediction = Prediction(fine, jnp.zeros((1, 1, 2, 3, 2)), jnp.ones((1, 1), bool))
    found = AGAME(aggregate=aggregate).feedback(prediction, (32, 48))
    assert found.shape == (1, 1, 2, 3)
    sharpened = probability**2 / (probability**2 + (1 - probability) ** 2)
    np.testing.assert_allclose(found, sharpened if aggregate else probability, rtol=1e-5)


def test_frames_and_masks_are_continued_by_reflection_with_the_odd_pixel_before():
    model = _tiny()
    frame = np.random.default_rng(0).integers(0, 255, (33, 46, 3)).astype(np.uint8)
    padded = model.preprocess(frame)
    assert padded.shape == (48, 48, 3)
    np.testing.assert_array_equal(padded[8:41, 1:47], frame)  # 15 rows more: 8 before, 7 after
    np.testing.assert_array_equal(padded[7, 1:47], frame[1])
    np.testing.assert_array_equal(padded[8:41, 47], frame[:, -2])
    masks = jnp.zeros((1, 2, 33, 46)).at[:, 1, :8].set(1.0)  # rows 8..15, and 0..6 by reflection
    variables = lively(variable_shapes(model), 0)
    features = model.apply(variables, padded[None], method=model.encode)
    found = model.fit_masks(masks, features)
    np.testing.assert_allclose(found[0, 0, :, 0], [15 / 16, 0, 0], atol=1e-6)
