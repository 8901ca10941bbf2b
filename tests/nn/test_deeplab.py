"""Invariants of DeepLabv3+; the official FEELVOS network's numbers are in test_feelvos."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vos_jax.nn.deeplab import DeepLabV3Plus, normalise


def _shapes(model):
    return dict(jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 33, 33, 3))))


def test_both_output_strides_share_one_parameter_tree():
    for backbone in ("xception_65", "mobilenet_v2"):
        at_8, at_16 = (_shapes(DeepLabV3Plus(backbone, output_stride=s)) for s in (8, 16))
        assert jax.tree.structure(at_8) == jax.tree.structure(at_16)
        assert jax.tree.leaves(at_8) == jax.tree.leaves(at_16)


@pytest.mark.parametrize("size", [(33, 50), (34, 47), (36, 64)])
def test_result_is_a_quarter_of_the_image_rounded_up(size):
    model = DeepLabV3Plus("mobilenet_v2", features=16, low_level_features=8, width=0.25)
    x = jnp.zeros((2, *size, 3))
    result = jax.eval_shape(model.apply, _shapes(model), x)
    assert result.shape == (2, -(-size[0] // 4), -(-size[1] // 4), 16)


@pytest.fixture(scope="module")
def small():
    """A small network with random variables and its input."""
    model = DeepLabV3Plus(
        "mobilenet_v2", features=16, low_level_features=8, width=0.25, momentum=0.9
    )
    rng = np.random.default_rng(1)

    def draw(leaf):
        if len(leaf.shape) == 1:
            return rng.uniform(0.5, 1.0, leaf.shape).astype(np.float32)
        fan_in = np.prod(leaf.shape[:-1])
        return rng.normal(0, np.sqrt(2 / fan_in), leaf.shape).astype(np.float32)

    x = rng.normal(size=(2, 33, 41, 3)).astype(np.float32)
    return model, jax.tree.map(draw, _shapes(model)), x


def test_dropout_acts_in_training_although_statistics_are_frozen(small):
    model, variables, x = small
    run = jax.jit(lambda key: model.apply(variables, x, train=True, rngs={"dropout": key}))
    evaluated = jax.jit(model.apply)(variables, x)
    first, again, other = (run(jax.random.key(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other)
    assert not np.allclose(first, evaluated)


def test_live_part_moves_only_its_own_statistics(small):
    model, variables, x = small
    live = model.clone(norm_eval=False)
    run = jax.jit(
        lambda: live.apply(
            variables, x, train=True, rngs={"dropout": jax.random.key(0)}, mutable=["batch_stats"]
        )
    )
    updated = run()[1]["batch_stats"]
    moved = jax.tree.map(lambda a, b: not np.array_equal(a, b), updated, variables["batch_stats"])
    assert not any(jax.tree.leaves(moved.pop("backbone")))
    assert all(jax.tree.leaves(moved))


def test_bfloat16_keeps_parameters_float32_and_stays_near_float32(small):
    model, variables, x = small
    half = model.clone(dtype=jnp.bfloat16)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(_shapes(half)))
    result, exact = jax.jit(half.apply)(variables, x), jax.jit(model.apply)(variables, x)
    assert result.dtype == jnp.bfloat16
    error = np.abs(np.asarray(result, np.float32) - exact).max()
    assert error < 0.05 * np.abs(exact).max()


def test_frames_are_scaled_as_each_backbone_was_trained():
    frames = np.array([[0, 127.5, 255]], np.float32)
    np.testing.assert_allclose(normalise(frames, "xception_65"), [[-1, 0, 1]], atol=1e-5)
    grey = np.array([0.485, 0.456, 0.406], np.float32) * 255
    np.testing.assert_allclose(normalise(grey, "mobilenet_v2"), np.zeros(3), atol=1e-5)
    white = normalise(np.full(3, 255, np.uint8), "mobilenet_v2")
    np.testing.assert_allclose(white, [2.2489083, 2.4285715, 2.64], rtol=1e-6)


def test_unknown_backbone_is_refused_by_name():
    with pytest.raises(ValueError, match="xception_65, mobilenet_v2, found 'resnet'"):
        DeepLabV3Plus("resnet").init(jax.random.key(0), jnp.zeros((1, 33, 33, 3)))
    with pytest.raises(ValueError, match="found 'resnet'"):
        normalise(np.zeros(3), "resnet")
