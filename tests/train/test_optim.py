import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.fixtures import load_npz
from tests.train.toy import optim_config
from vos_jax.train.optim import build_optimizer, build_schedule, parameter_paths

PARAMS = {
    "stem": {"kernel": jnp.full([2, 3], 0.5), "bias": jnp.array([1.0, -2.0, 0.5])},
    "head": {"kernel": jnp.array([[3.0], [-1.0], [2.0]]), "bias": jnp.array([0.1])},
}


def gradients(seed: int) -> dict:
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda p: rng.normal(size=p.shape).astype(np.float32) * 9, PARAMS)


def run(config, steps=3):
    tx, _ = build_optimizer(config, PARAMS)
    params, state = PARAMS, tx.init(PARAMS)
    for step in range(steps):
        updates, state = tx.update(gradients(step), state, params)
        params = optax.apply_updates(params, updates)
    return params


def by_hand(path, steps=3, decay=0.0, factor=1.0, clip=None, rate=1.0, nesterov=False):
    """SGD with momentum 0.9 on one parameter of PARAMS in float64."""
    module, name = path.split("/")
    w = np.asarray(PARAMS[module][name], np.float64)
    buffer = np.zeros_like(w)
    for step in range(steps):
        g = (gradients(step)[module][name] + decay * w) * factor
        if clip is not None:
            g = g * clip / max(np.linalg.norm(g), clip)
        buffer = 0.9 * buffer + g
        learning_rate = 0.05 * (1 - step / 20) ** 0.9
        w = w - learning_rate * rate * (g + 0.9 * buffer if nesterov else buffer)
    return w


def check(params, path, **by_hand_arguments):
    module, name = path.split("/")
    expected = by_hand(path, **by_hand_arguments)
    np.testing.assert_allclose(params[module][name], expected, rtol=2e-6, atol=1e-6)


def test_poly_schedule_equals_the_official_one():
    table = load_npz("feelvos", "ops")["poly_lr"]
    config = optim_config(learning_rate=0.0007, steps=200000)
    rates = jax.jit(build_schedule(config))
    ours = np.array([rates(jnp.int32(step)) for step in table[:, 0]])
    np.testing.assert_allclose(ours, table[:, 1], rtol=1e-5)
    assert rates(200000) == 0 and rates(300000) == 0 and ours.dtype == np.float32


def test_warmup_rises_linearly_and_poly_counts_from_its_end():
    rate = build_schedule(optim_config(warmup_steps=4, warmup_start=0.5, steps=24))
    np.testing.assert_allclose([rate(0), rate(2), rate(4)], [0.025, 0.0375, 0.05], rtol=1e-6)
    np.testing.assert_allclose(rate(14), 0.05 * 0.5**0.9, rtol=1e-6)


def test_no_rate_is_below_the_floor_not_even_in_the_warmup():
    rate = build_schedule(optim_config(warmup_steps=4, steps=24, floor=0.02))
    np.testing.assert_allclose([rate(0), rate(1), rate(2)], [0.02, 0.02, 0.025], rtol=1e-6)
    np.testing.assert_allclose([rate(14), rate(23), rate(99)], [0.05 * 0.5**0.9, 0.02, 0.02])


def test_step_schedule_drops_at_its_boundaries():
    rate = build_schedule(optim_config(schedule="step", boundaries=(10, 20), decay_factor=0.1))
    rates = [rate(step) for step in (0, 9, 10, 19, 20, 99)]
    np.testing.assert_allclose(rates, [0.05, 0.05, 0.005, 0.005, 0.0005, 0.0005], rtol=1e-6)


def test_boundaries_act_on_every_schedule_and_count_from_the_first_step():
    plain = build_schedule(optim_config(warmup_steps=4, steps=24))
    drops = build_schedule(
        optim_config(warmup_steps=4, steps=24, boundaries=(2, 14), decay_factor=0.5)
    )
    for step, factor in ((0, 1), (1, 1), (2, 0.5), (13, 0.5), (14, 0.25), (23, 0.25)):
        np.testing.assert_allclose(drops(step), factor * plain(step), rtol=1e-6)


def test_constant_schedule_stays_and_poly_needs_steps_beyond_warmup():
    assert build_schedule(optim_config(schedule="constant"))(7) == np.float32(0.05)
    with pytest.raises(ValueError, match="steps is 5, but must exceed warmup_steps"):
        build_schedule(optim_config(steps=5, warmup_steps=5))


def test_order_is_decay_multiplier_clip_momentum_rate():
    config = optim_config(weight_decay=0.3, clip_norm=20.0)
    params = run(config)
    norm = np.linalg.norm(2 * gradients(0)["stem"]["bias"])
    assert norm > 20  # otherwise the clip would not show
    check(params, "stem/kernel", decay=0.3, clip=20.0)
    check(params, "head/kernel", decay=0.3, clip=20.0)
    check(params, "stem/bias", factor=2.0, clip=20.0)
    check(params, "head/bias", factor=2.0, clip=20.0)


def test_rate_multipliers_act_after_the_clip_and_the_first_fitting_rule_decides():
    rules = (("head/bias", 0.5), ("head", 0.1))
    params = run(optim_config(rate_multipliers=rules, gradient_multipliers=(), weight_decay=0.0))
    check(params, "head/kernel", clip=5.0, rate=0.1)
    check(params, "head/bias", clip=5.0, rate=0.5)
    check(params, "stem/bias", clip=5.0)


def test_of_several_rate_multipliers_each_step_takes_the_next_and_the_momentum_goes_on():
    rules = (("head", (0.0, 3.0)), ("stem/kernel", 0.5))
    config = optim_config(rate_multipliers=rules, gradient_multipliers=(), weight_decay=0.0)
    tx, _ = build_optimizer(config, PARAMS)
    found, state = PARAMS, tx.init(PARAMS)
    buffer, expected = 0.0, np.asarray(PARAMS["head"]["bias"], np.float64)
    for step in range(4):
        updates, state = jax.jit(tx.update)(gradients(step), state, found)
        found = optax.apply_updates(found, updates)
        g = gradients(step)["head"]["bias"]
        buffer = 0.9 * buffer + g * 5 / max(np.linalg.norm(g), 5)
        expected = expected - 0.05 * (1 - step / 20) ** 0.9 * (0.0, 3.0)[step % 2] * buffer
        np.testing.assert_allclose(found["head"]["bias"], expected, rtol=2e-6, atol=1e-6)


def test_rate_multipliers_scale_adams_step_which_gradient_multipliers_cannot():
    def first_step(**changes):
        config = optim_config(name="adam", clip="none", weight_decay=0.0, **changes)
        return run(config, steps=1)["head"]["kernel"] - PARAMS["head"]["kernel"]

    plain = first_step()
    slower = first_step(rate_multipliers=(("head", 0.1),))
    np.testing.assert_allclose(slower, 0.1 * plain, rtol=1e-4)
    same = first_step(gradient_multipliers=(("head", 0.1),))
    np.testing.assert_allclose(same, plain, rtol=1e-4)


def test_nesterov_equals_the_formula():
    config = optim_config(
        nesterov=True, clip="none", gradient_multipliers=(), decay=(), weight_decay=0.0
    )
    check(run(config), "stem/kernel", nesterov=True)


def test_global_clip_scales_all_gradients_by_one_factor():
    config = optim_config(clip="global", gradient_multipliers=(), decay=(), momentum=0.0)
    params = run(config, steps=1)
    g = gradients(0)
    norm = np.sqrt(sum((x**2).sum() for x in jax.tree.leaves(g)))
    expected = PARAMS["stem"]["bias"] - 0.05 * g["stem"]["bias"] * 5 / norm
    np.testing.assert_allclose(params["stem"]["bias"], expected, rtol=1e-5)


def test_adam_decays_through_the_gradient_as_torch_does():
    config = optim_config(
        name="adam", clip="none", gradient_multipliers=(), weight_decay=0.3, schedule="constant"
    )
    params = run(config, steps=2)
    w = np.asarray(PARAMS["stem"]["kernel"], np.float64)
    m = v = 0
    for step in range(2):
        g = gradients(step)["stem"]["kernel"] + 0.3 * w
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        m_hat, v_hat = m / (1 - 0.9 ** (step + 1)), v / (1 - 0.999 ** (step + 1))
        w = w - 0.05 * m_hat / (np.sqrt(v_hat) + 1e-8)
    np.testing.assert_allclose(params["stem"]["kernel"], w, rtol=1e-5)


def test_frozen_parameters_stay_and_have_no_slots():
    tx, _ = build_optimizer(optim_config(freeze=("^stem/",)), PARAMS)
    slots = [x for x in jax.tree.leaves(tx.init(PARAMS)) if x.ndim]
    assert sorted(x.shape for x in slots) == [(1,), (3, 1)]
    params = run(optim_config(freeze=("^stem/",), weight_decay=0.3))
    for name, value in params["stem"].items():
        np.testing.assert_array_equal(value, PARAMS["stem"][name])
    check(params, "head/kernel", decay=0.3, clip=5.0)


@pytest.mark.parametrize(
    "field, value",
    [
        ("decay", ("kernal$",)),
        ("freeze", ("backbone",)),
        ("gradient_multipliers", (("biases", 2.0),)),
        ("rate_multipliers", (("tail", 2.0),)),
    ],
)
def test_pattern_without_parameter_is_refused_with_its_field(field, value):
    with pytest.raises(ValueError, match=f"config.optim.{field}.*fits none.*head/bias"):
        build_optimizer(optim_config(**{field: value}), PARAMS)


@pytest.mark.parametrize("field", ["name", "schedule", "clip"])
def test_unknown_choice_is_refused_with_the_choices(field):
    with pytest.raises(ValueError, match=rf"config.optim.{field} is 'x'; expected one of \["):
        build_optimizer(optim_config(**{field: "x"}), PARAMS)


def test_paths_are_joined_by_slashes():
    assert parameter_paths(PARAMS) == ["head/bias", "head/kernel", "stem/bias", "stem/kernel"]
