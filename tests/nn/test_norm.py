"""BatchNorm, ConvNorm and SeparableConvNorm against hand-written formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vos_jax.nn.norm import BatchNorm, ConvNorm, SeparableConvNorm


@pytest.fixture
def x():
    return np.random.default_rng(0).normal(1.0, 2.0, (3, 4, 5, 6)).astype(np.float32)


def _variables(seed=1, channels=6):
    rng = np.random.default_rng(seed)
    draw = {name: rng.uniform(0.5, 1.5, channels).astype(np.float32) for name in "abcd"}
    return {
        "params": {"scale": draw["a"], "bias": draw["b"]},
        "batch_stats": {"mean": draw["c"], "var": draw["d"]},
    }


def test_live_statistics_follow_the_formula_with_unbiased_running_variance(x):
    variables = _variables()
    module = BatchNorm(epsilon=1e-3, momentum=0.75)
    y, state = module.apply(variables, x, train=True, mutable=["batch_stats"])
    flat = x.reshape(-1, 6).astype(np.float64)
    mean, var, unbiased = flat.mean(0), flat.var(0), flat.var(0, ddof=1)
    params, old, new = variables["params"], variables["batch_stats"], state["batch_stats"]
    expected = (x - mean) / np.sqrt(var + 1e-3) * params["scale"] + params["bias"]
    np.testing.assert_allclose(y, expected, atol=1e-5)
    np.testing.assert_allclose(new["mean"], 0.75 * old["mean"] + 0.25 * mean, rtol=1e-5)
    np.testing.assert_allclose(new["var"], 0.75 * old["var"] + 0.25 * unbiased, rtol=1e-5)


def test_frozen_ignores_the_batch_in_training(x):
    variables = _variables()
    module = BatchNorm(epsilon=1e-3, norm_eval=True)
    y, state = module.apply(variables, x, train=True, mutable=["batch_stats"])
    params, stats = variables["params"], variables["batch_stats"]
    expected = (x - stats["mean"]) / np.sqrt(stats["var"] + 1e-3) * params["scale"]
    np.testing.assert_allclose(y, expected + params["bias"], atol=1e-5)
    for name in ("mean", "var"):
        np.testing.assert_array_equal(state["batch_stats"][name], stats[name])


def test_live_in_evaluation_equals_frozen(x):
    live = BatchNorm().apply(_variables(), x, train=False)
    np.testing.assert_array_equal(
        live, BatchNorm(norm_eval=True).apply(_variables(), x, train=True)
    )


def test_scale_and_bias_train_although_statistics_are_frozen(x):
    variables = _variables()
    gradients = jax.grad(
        lambda params: (
            BatchNorm(norm_eval=True).apply({**variables, "params": params}, x) ** 2
        ).sum()
    )(variables["params"])
    assert all(np.abs(leaf).min() > 0 for leaf in jax.tree.leaves(gradients))


def test_large_mean_does_not_spoil_the_batch_variance():
    x = (np.random.default_rng(2).normal(0, 1, (64, 2)) + 3000).astype(np.float32)
    y = BatchNorm().apply(_variables(channels=2), x, train=True)
    scale = _variables(channels=2)["params"]["scale"]
    np.testing.assert_allclose(np.std(y, axis=0), scale, rtol=1e-3)


def test_bfloat16_computes_from_float32_statistics(x):
    variables = _variables()
    y, state = BatchNorm(dtype=jnp.bfloat16).apply(
        variables, x.astype(jnp.bfloat16), train=True, mutable=["batch_stats"]
    )
    assert y.dtype == jnp.bfloat16
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(state))


def test_live_statistics_of_a_single_value_are_refused():
    with pytest.raises(ValueError, match="more than one value per channel, found 1"):
        BatchNorm().apply(_variables(), np.zeros((1, 1, 1, 6), np.float32), train=True)


@pytest.mark.parametrize("size", [(8, 9), (7, 10)])
def test_strided_convolution_samples_from_row_0_with_symmetric_padding(size):
    x = np.random.default_rng(3).normal(size=(1, *size, 2)).astype(np.float32)
    dense = ConvNorm(4, kernel=3, norm_eval=True)
    variables = dense.init(jax.random.key(0), x)
    strided = ConvNorm(4, kernel=3, strides=2, norm_eval=True)
    np.testing.assert_allclose(
        strided.apply(variables, x), dense.apply(variables, x)[:, ::2, ::2], atol=1e-5
    )


def test_depthwise_kernel_has_one_input_channel_and_acts_per_channel():
    x = np.random.default_rng(4).normal(size=(1, 6, 6, 3)).astype(np.float32)
    module = ConvNorm(3, kernel=3, dilation=2, groups=3)
    variables = module.init(jax.random.key(0), x)
    kernel = variables["params"]["conv"]["kernel"]
    assert kernel.shape == (3, 3, 1, 3)
    padded = np.pad(x[0], ((2, 2), (2, 2), (0, 0)))
    expected = sum(
        padded[2 * i : 2 * i + 6, 2 * j : 2 * j + 6] * np.asarray(kernel)[i, j, 0]
        for i in range(3)
        for j in range(3)
    )
    y = np.asarray(module.apply(variables, x))[0] * np.sqrt(1 + 1e-5)
    np.testing.assert_allclose(y, expected, atol=1e-5)


def test_separable_convolution_is_depthwise_then_pointwise_with_the_activation_after_both():
    x = np.random.default_rng(5).normal(size=(1, 5, 5, 3)).astype(np.float32)
    module = SeparableConvNorm(4, activation=lambda y: jnp.maximum(y, 0.1))
    variables = module.init(jax.random.key(0), x)
    parts = {
        name: {c: variables[c][name] for c in ("params", "batch_stats")}
        for name in ("depthwise", "pointwise")
    }
    y = ConvNorm(3, kernel=3, groups=3).apply(parts["depthwise"], x)
    y = ConvNorm(4).apply(parts["pointwise"], jnp.maximum(y, 0.1))
    np.testing.assert_allclose(module.apply(variables, x), jnp.maximum(y, 0.1), atol=1e-6)
