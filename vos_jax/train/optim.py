"""Optimizer and learning-rate schedule from config.optim.

One step, in the order of FEELVOS's official trainer (TF-slim `train_utils`):
    gradient + weight_decay * parameter      (L2 loss 0.5 * weight_decay * |w|^2, as torch and TF)
    -> gradient multipliers -> clipping -> momentum or Adam -> rate multipliers -> -learning rate.
The learning rate stands outside the momentum buffer, as in torch.optim.SGD and tf.train.Momentum.

Patterns are regular expressions searched in parameter paths such as
"deeplab/backbone/entry_flow/conv1/kernel". The first pattern of a list that fits decides; one
that fits no parameter at all is refused, because it is a misspelling.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

Schedule = Callable[[jax.Array], jax.Array]


def build_optimizer(config: Any, params: Any) -> tuple[optax.GradientTransformation, Schedule]:
    """The gradient transformation of config.optim for these parameters, and its schedule.

    Frozen parameters get zero updates and no optimizer slots. Raises ValueError for an unknown
    name or for a pattern without a parameter, naming the field.
    """
    check_patterns(config, params)
    schedule = build_schedule(config)
    chain = optax.chain(
        _add_l2(config.weight_decay, tuple(config.decay)),
        _multiply(tuple(config.gradient_multipliers)),
        _clip(config.clip, config.clip_norm),
        _direction(config),
        _multiply(tuple(config.rate_multipliers)),
        optax.scale_by_learning_rate(schedule),
    )
    freeze = tuple(config.freeze)
    if not freeze:
        return chain, schedule
    labels = map_with_path(lambda path, _: "frozen" if fits(freeze, path) else "trained", params)
    tx = optax.partition({"trained": chain, "frozen": optax.set_to_zero()}, labels)
    return tx, schedule


def build_schedule(config: Any) -> Schedule:
    """step [] int32 -> learning rate [] float32.

    poly: learning_rate * (1 - t/steps)^power, 0 from the end on; with a warm-up t and steps are
    counted from its end. constant, or step, its name where there are boundaries. Any rate is
    multiplied by decay_factor at each of the boundaries, from that step on. Warm-up: linear from
    warmup_start * learning_rate at step 0 over warmup_steps. Where there is a `floor`, no rate is
    below it, the first ones of a warm-up included.
    """
    base, warmup = config.learning_rate, config.warmup_steps
    if config.schedule == "poly" and config.steps <= warmup:
        raise ValueError(
            f"config.optim.steps is {config.steps}, but must exceed warmup_steps ({warmup}): "
            "it is the step at which the poly schedule reaches 0"
        )

    def poly():
        steps = config.steps - warmup

        def rate(step):
            # optax's has 1 - t/steps, which cancels: the last rates of a long run are 0.5 % off
            remaining = jnp.clip(steps - step, 0, steps)
            return base * (remaining / steps) ** config.power

        return rate

    def constant():
        return optax.constant_schedule(base)

    after = {"poly": poly, "step": constant, "constant": constant}
    main = _choose("schedule", config.schedule, after)()
    if warmup:
        ramp = optax.linear_schedule(config.warmup_start * base, base, warmup)
        main = optax.join_schedules([ramp, main], [warmup])

    factors = dict.fromkeys(config.boundaries, config.decay_factor)
    drops = optax.piecewise_constant_schedule(1.0, factors)

    def schedule(step):
        step = jnp.asarray(step, jnp.int32)
        return jnp.maximum(jnp.float32(main(step)) * drops(step), config.floor)

    return schedule


def check_patterns(config: Any, params: Any) -> None:
    """Raises ValueError if a pattern of config.optim fits no parameter path."""
    paths = parameter_paths(params)
    lists = {
        "decay": tuple(config.decay),
        "freeze": tuple(config.freeze),
        "gradient_multipliers": tuple(p for p, _ in config.gradient_multipliers),
        "rate_multipliers": tuple(p for p, _ in config.rate_multipliers),
    }
    for field, patterns in lists.items():
        for pattern in patterns:
            if not any(re.search(pattern, path) for path in paths):
                some = ", ".join(paths[:: max(1, len(paths) // 5)][:5])
                raise ValueError(
                    f"config.optim.{field}: the pattern {pattern!r} fits none of the "
                    f"{len(paths)} parameters (for example {some}); correct or remove it"
                )


def parameter_paths(params: Any) -> list[str]:
    """Path of every leaf, such as "head/logits/kernel", in tree order."""
    return jax.tree.leaves(map_with_path(lambda path, _: path, params))


def map_with_path(function: Callable, tree: Any, *rest: Any) -> Any:
    """jax.tree.map whose function gets the leaf's path as a string first."""

    def call(path, *leaves):
        return function(jax.tree_util.keystr(path, simple=True, separator="/"), *leaves)

    return jax.tree_util.tree_map_with_path(call, tree, *rest)


def fits(patterns: Sequence[str], path: str) -> bool:
    """Whether any of the regular expressions is found in the path."""
    return any(re.search(pattern, path) for pattern in patterns)


def _add_l2(weight_decay: float, decay: tuple[str, ...]) -> optax.GradientTransformation:
    def decaying(params):
        return map_with_path(lambda path, _: fits(decay, path), params)

    if not weight_decay or not decay:
        return optax.identity()
    return optax.add_decayed_weights(weight_decay, mask=decaying)


def _multiply(rules: tuple[tuple[str, Any], ...]) -> optax.GradientTransformation:
    """Each value times the factor of the first pattern that fits; of several, the step's."""

    def scaled(values, step):
        def scale(path, value):
            factors = [factor for pattern, factor in rules if re.search(pattern, path)]
            if not factors:
                return value
            if isinstance(factors[0], tuple | list):
                return value * jnp.asarray(factors[0])[step % len(factors[0])]
            return value * factors[0]

        return map_with_path(scale, values)

    if not rules:
        return optax.identity()
    if not any(isinstance(factor, tuple | list) for _, factor in rules):
        return optax.stateless(lambda values, params: scaled(values, None))
    return optax.GradientTransformation(
        lambda params: optax.ScaleByScheduleState(jnp.zeros((), jnp.int32)),
        lambda values, state, params: (
            scaled(values, state.count),
            optax.ScaleByScheduleState(optax.safe_increment(state.count)),
        ),
    )


def _clip(kind: str, norm: float) -> optax.GradientTransformation:
    def per_parameter(gradient):
        # not of the ravelled gradient, which would be gathered where it lies on several devices
        length = jnp.sqrt(jnp.sum(jnp.square(gradient)))
        return gradient * (norm / jnp.maximum(length, norm))

    return _choose(
        "clip",
        kind,
        {
            "none": optax.identity(),
            "global": optax.clip_by_global_norm(norm),
            "per_parameter": optax.stateless(lambda g, _: jax.tree.map(per_parameter, g)),
        },
    )


def _direction(config: Any) -> optax.GradientTransformation:
    def sgd():
        if not config.momentum:
            return optax.identity()
        return optax.trace(decay=config.momentum, nesterov=config.nesterov)

    def adam():
        return optax.scale_by_adam(b1=config.b1, b2=config.b2, eps=config.eps)

    return _choose("name", config.name, {"sgd": sgd, "adam": adam})()


def _choose(field: str, value: str, choices: dict[str, Any]) -> Any:
    if value not in choices:
        raise ValueError(f"config.optim.{field} is {value!r}; expected one of {sorted(choices)}")
    return choices[value]
