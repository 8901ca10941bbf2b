"""The appearance model of A-GAME against a float64 computation in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import softmax

from vos_jax.ops.gaussian import Mixture, fit, log_scores, update

PIXELS, CHANNELS = 60, 5


def _components(x, weights, floor, rule):
    """Means and variances [k, C] of pixels [P, C] in float64."""
    total = weights.sum(axis=1, keepdims=True)
    total = total + {"code": 1, "paper": 1e-3}[rule]
    means = weights @ x / total
    apart = np.square(x[None] - means[:, None])
    return means, np.einsum("kp,kpc->kc", weights, apart) / total + floor


def _scores(x, means, variances):
    distance = (np.square(x[None] - means[:, None]) / variances[:, None]).sum(-1)
    return -0.5 * (distance + np.log(variances).sum(-1, keepdims=True))


def _fitted(x, y, floors, rule):
    weights = np.stack([1 - y, y])
    means, variances = _components(x, weights, floors[:2], rule)
    wrong = np.maximum(softmax(_scores(x, means, variances), axis=0) - weights, 0)
    others = _components(x, wrong, floors[2:], rule)
    return np.concatenate([means, others[0]]), np.concatenate([variances, others[1]])


def _masks(kind, rng):
    """Masks of four frames [4, P], of which the object fills as much as `kind` says."""
    masks = (rng.random((4, PIXELS)) < 0.4) * rng.uniform(0.5, 1, (4, PIXELS))
    if kind == "vanishes":
        masks[1:3] = 0
    if kind == "pixel":
        masks = np.eye(PIXELS)[rng.integers(PIXELS, size=4)]
    if kind == "full":
        masks[:] = 1
    return masks


@pytest.mark.parametrize("rule", ["code", "paper"])
def test_four_frames_of_200_videos_agree_with_float64(rule):
    """Objects that vanish and return, of one pixel, as large as the frame, and ordinary ones."""
    kinds = np.tile(["plain", "vanishes", "pixel", "full"], 50)
    rng = np.random.default_rng(0)
    masks = np.stack([_masks(kind, rng) for kind in kinds])
    frames = rng.normal(0, 2, (200, 4, PIXELS, CHANNELS))
    frames += 3 * masks[..., None] * rng.normal(0, 1, (200, 1, 1, CHANNELS))
    floors = rng.uniform(0.1, 1, (4, CHANNELS))

    @jax.jit
    def ours(frames, masks):
        mixture = fit(frames[:, 0], masks[:, 0, None], floors, rule)
        for t in (1, 2, 3):
            fitted = fit(frames[:, t], masks[:, t, None], floors, rule)
            mixture = update(mixture, fitted, 0.1)
        return mixture, log_scores(mixture, frames[:, 3])

    mixture, scores = ours(jnp.float32(frames), jnp.float32(masks))
    for i in range(200):
        means, variances = _fitted(frames[i, 0], masks[i, 0], floors, rule)
        for t in (1, 2, 3):
            now = _fitted(frames[i, t], masks[i, t], floors, rule)
            means, variances = 0.9 * means + 0.1 * now[0], 0.9 * variances + 0.1 * now[1]
        expected = _scores(frames[i, 3], means, variances)
        for found, wanted in (
            (mixture.means[i, 0], means),
            (mixture.variances[i, 0], variances),
            (scores[i, 0], expected),
        ):
            np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())


@pytest.mark.parametrize("rule", ["code", "paper"])
def test_gradients_are_finite_for_an_object_without_a_pixel(rule):
    rng = np.random.default_rng(1)
    features = jnp.float32(rng.normal(size=(1, PIXELS, CHANNELS)))
    masks = jnp.zeros((1, 2, PIXELS)).at[0, 1, :5].set(1.0)

    def total(features, masks, floors):
        mixture = fit(features, masks, floors, rule)
        return log_scores(mixture, features).sum()

    gradients = jax.grad(total, argnums=(0, 1, 2))(features, masks, jnp.ones((4, CHANNELS)))
    assert all(np.isfinite(g).all() for g in gradients)
    assert np.abs(gradients[0]).max() > 0


def test_a_component_that_was_never_fitted_has_finite_scores_and_gradients():
    features = jnp.ones((1, PIXELS, CHANNELS))
    empty = jnp.zeros((1, 1, 4, CHANNELS))

    def total(features, means, variances):
        return log_scores(Mixture(means, variances), features).sum()

    value, gradients = jax.value_and_grad(total, argnums=(0, 1, 2))(features, empty, empty)
    assert np.isfinite(value) and all(np.isfinite(g).all() for g in gradients)


def test_two_components_are_the_first_of_four():
    rng = np.random.default_rng(2)
    features = jnp.float32(rng.normal(size=(1, PIXELS, CHANNELS)))
    masks, floors = jnp.float32(rng.random((1, 1, PIXELS))), jnp.ones((4, CHANNELS))
    four, two = fit(features, masks, floors), fit(features, masks, floors[:2])
    for a, b in zip(jax.tree.leaves(four), jax.tree.leaves(two), strict=True):
        np.testing.assert_array_equal(a[:, :, :2], b)
