import flax.linen as nn
import jax
import numpy as np
import pytest

from tests.train.toy import Toy, batches_of, build, objective_of, toy_config
from vos_jax.train.partition import build_mesh, shard_batch


def take_steps(config, model, steps=3):
    """(final state, metrics of the last step, the step function) on one device."""
    state, step, mesh = build(config, model)
    stream = batches_of(config.train.batch)(0)
    for _ in range(steps):
        state, metrics = step(state, shard_batch(next(stream), mesh))
    return state, metrics, step


def assert_close(a, b, tolerance):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance)


def test_accumulated_gradient_is_that_of_the_big_batch():
    frozen_statistics = Toy(live=False)
    whole, big, _ = take_steps(toy_config(batch=8), frozen_statistics)
    for accumulate in (2, 4):
        config = toy_config(batch=8, accumulate=accumulate)
        parts, small, _ = take_steps(config, frozen_statistics)
        assert_close(whole.params, parts.params, 1e-6)
        # Per-example losses come back in the order of the batch, so that clips can be named.
        np.testing.assert_allclose(big["losses"], small["losses"], rtol=1e-5)
        np.testing.assert_allclose(big["bias"], small["bias"], rtol=1e-5)


def test_loss_is_the_mean_over_the_batch_and_gradient_norm_precedes_the_clip():
    config = toy_config()
    config.optim.clip_norm = 1e-3
    config.optim.weight_decay = 0.0
    model = Toy(live=False)
    state, step, mesh = build(config, model)
    batch = next(batches_of(4)(0))
    variables = jax.device_get(state.variables())
    objective = objective_of(model)

    def loss(params):
        changed = {**variables, "params": params}
        return objective(changed, {k: batch[k] for k in "xy"}, 0, state.rng)[0].mean()

    expected, gradient = jax.value_and_grad(loss)(variables["params"])
    _, metrics = step(state, shard_batch(batch, mesh))
    norm = np.sqrt(sum((np.asarray(g) ** 2).sum() for g in jax.tree.leaves(gradient)))
    np.testing.assert_allclose(metrics["loss"], expected, rtol=1e-5)
    np.testing.assert_allclose(metrics["losses"].mean(), expected, rtol=1e-5)
    np.testing.assert_allclose(metrics["gradient_norm"], norm, rtol=1e-5)


def test_ema_follows_its_recurrence():
    config = toy_config(ema=0.8)
    state, step, mesh = build(config, Toy())
    average = jax.device_get(state.params)
    stream = batches_of(4)(0)
    for _ in range(3):
        state, _ = step(state, shard_batch(next(stream), mesh))
        now = jax.device_get(state.params)
        average = jax.tree.map(lambda e, p: 0.8 * e + 0.2 * p, average, now)
    assert_close(state.ema, average, 1e-6)
    assert state.best_variables()["params"] is state.ema
    assert state.variables()["params"] is state.params


def test_without_ema_the_parameters_are_the_best_and_asking_for_it_is_refused():
    state, _, _ = build(toy_config(ema=0.0))
    assert state.best_variables()["params"] is state.params
    with pytest.raises(ValueError, match="set config.train.ema above 0"):
        state.variables(ema=True)


def test_batch_statistics_and_learning_rate_advance():
    config = toy_config()
    first, _, _ = build(config)
    state, metrics, _ = take_steps(config, Toy(), steps=3)
    assert int(state.step) == 3
    assert not np.allclose(state.batch_stats["norm"]["mean"], first.batch_stats["norm"]["mean"])
    np.testing.assert_allclose(metrics["learning_rate"], 0.05 * (1 - 2 / 20) ** 0.9, rtol=1e-6)


def test_frozen_parameters_stay_bit_for_bit_and_leave_the_gradient_norm():
    config = toy_config()
    config.optim.freeze = ("^(stem|norm|body)/",)
    first = jax.device_get(build(config)[0])
    state, metrics, _ = take_steps(config, Toy(live=False), steps=2)
    for module in ("stem", "norm", "body"):
        for name, value in state.params[module].items():
            np.testing.assert_array_equal(value, first.params[module][name])
    assert not np.array_equal(state.params["head"]["kernel"], first.params["head"]["kernel"])
    _, everything, _ = take_steps(toy_config(), Toy(live=False), steps=2)
    assert 0 < metrics["gradient_norm"] < everything["gradient_norm"]


def test_each_step_has_its_own_noise():
    config = toy_config()
    config.optim.learning_rate = 0.0
    state, step, mesh = build(config, Toy(dropout=0.5, live=False))
    batch = shard_batch(next(batches_of(4)(0)), mesh)
    losses = []
    for _ in range(3):
        state, metrics = step(state, batch)
        losses.append(float(metrics["loss"]))
    assert len(set(losses)) == 3


def test_one_compilation_for_all_steps():
    _, _, step = take_steps(toy_config(steps=6), Toy(), steps=6)
    assert step._cache_size() == 1


def test_finite_looks_at_the_losses_and_the_new_state():
    state, step, mesh = build(toy_config())
    batch = next(batches_of(4)(0))
    state, metrics = step(state, shard_batch(batch, mesh))
    assert metrics["finite"]
    batch["x"][2, 0, 0, 0] = np.inf
    _, metrics = step(state, shard_batch(batch, mesh))
    assert not metrics["finite"]


def test_finite_notices_a_bad_gradient_of_a_finite_loss():
    class Kink(nn.Module):
        """sqrt(0): the value is 0, its derivative infinite."""

        @nn.compact
        def __call__(self, x, train=False):
            w = self.param("kernel", nn.initializers.zeros, [3])
            statistics = self.variable("batch_stats", "mean", lambda: np.zeros(1, np.float32))
            statistics.value = statistics.value * 1.0
            bias = self.param("bias", nn.initializers.zeros, [1])
            return jax.numpy.sqrt((w**2).sum()) + bias + 0 * x.mean(axis=(1, 2, 3))

    state, step, _ = build(toy_config(), Kink())
    mesh = build_mesh(toy_config().mesh)
    _, metrics = step(state, shard_batch(next(batches_of(4)(0)), mesh))
    assert np.isfinite(metrics["losses"]).all() and not metrics["finite"]
