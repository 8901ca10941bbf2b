"""The batch of a recipe where the devices cannot share it evenly, and what follows from another.

config.optim.scale_rule raises the batch to the next multiple of devices x accumulate, and with it
    learning_rate, floor     times b ("linear") or sqrt(b) ("sqrt"), b = new batch / old batch
    what counts steps        divided by b, so that each comes after as many clips as before
    ema                      to the power of b, so that it averages over as many clips
What counts examples (data.clip.growth.every) or turns (data.alternate.every, lists of
rate_multipliers), shares (warmup_start), momentum, Adam's b1 and b2 and the averages of BatchNorm
stay, and so does what only concerns the machine (train.save_steps, log.every). Steps are whole:
what does not divide is rounded, and the difference in clips is told.

linear: Goyal et al. 2017 (arXiv 1706.02677), for SGD. sqrt: Malladi et al. 2022 (2205.10287), for
Adam. ema: Busbridge et al. 2023 (2307.13813).
"""

import copy
import math
from collections.abc import Callable, Iterator, Mapping

from ml_collections import ConfigDict

from vos_jax.train.workdir import differing_fields

RULES: dict[str, Callable[[float], float]] = {
    "none": lambda ratio: 1.0,  # a batch that does not fit is refused
    "linear": lambda ratio: ratio,
    "sqrt": math.sqrt,
}
RATES = ("learning_rate", "floor")  # of config.optim


def fit_batch(
    config: ConfigDict, devices: int, begun: Mapping | None = None
) -> tuple[ConfigDict, list[str]]:
    """The config with a batch that the devices share evenly, and lines that say what changed.

    config: whole; it is left alone, and returned where its batch fits. begun: the stored config of
    a run that goes on, whose batch it keeps, on whatever devices. Raises ValueError where the rule
    is "none", or the run's batch does not fit.
    """
    batch, unit = config.train.batch, devices * config.train.accumulate
    fitting, rule = -(-batch // unit) * unit, config.optim.scale_rule
    if rule != "none" and begun is not None and begun["train"]["batch"] >= batch:
        fitting = begun["train"]["batch"]
    elif fitting != batch and rule == "none":
        raise ValueError(_refusal(config, devices, fitting))
    if fitting % unit:
        raise ValueError(
            f"the run of this workdir has batch {fitting}, which {devices} devices in"
            f" {config.train.accumulate} micro-batch(es) cannot share evenly; go on with fewer"
            " devices (config.mesh.data), or begin another run with --workdir"
        )
    if fitting == batch:
        return config, []
    scaled = scale_batch(config, fitting)
    before, after = (c.train.batch * c.train.steps for c in (config, scaled))
    clips = (
        f"{after} clips are seen, as before"
        if before == after
        else (f"{after} clips are seen instead of {before}: steps are whole")
    )
    return scaled, [*differing_fields(config, scaled), clips]


def scale_batch(config: ConfigDict, batch: int) -> ConfigDict:
    """A copy of the config for another batch, by its rule; see the module."""
    old, scaled = config.train.batch, copy.deepcopy(config)  # fields go on following others
    scaled.train.batch = batch
    factor = RULES[config.optim.scale_rule](batch / old)
    for name in RATES:
        scaled.optim[name] = config.optim[name] * factor
    scaled.train.ema = config.train.ema ** (batch / old)
    for section, name in _counting_steps(config):
        before, now = _section(config, section)[name], _section(scaled, section)
        if now[name] != before:  # it follows a field that was divided
            continue
        if isinstance(before, int):
            now[name] = _divided(before, old, batch)
            continue
        now[name] = type(before)(_divided(step, old, batch) for step in before)
        if len(set(now[name])) < len(set(before)):
            raise ValueError(
                f"config.{section}.{name}={before!r} would be {now[name]!r} with a batch of"
                f" {batch}: some of these steps become one; use fewer devices (config.mesh.data)"
            )
    return scaled


def _counting_steps(config: ConfigDict) -> Iterator[tuple[str, str]]:
    """Section and name of each field that counts steps; those that others follow come first."""
    yield "train", "steps"
    if "teacher_forcing_steps" in config.train:
        yield "train", "teacher_forcing_steps"
    yield from (("optim", name) for name in ("steps", "warmup_steps", "boundaries"))
    yield from (("loss", name) for name in config.loss if name.endswith("steps"))
    yield "data.pretrain", "steps"
    yield "eval", "every"


def _section(config: ConfigDict, name: str) -> ConfigDict:
    for part in name.split("."):
        config = config[part]
    return config


def _divided(steps: int, old: int, new: int) -> int:
    """steps * old / new to the nearest whole number, but not to 0."""
    return max(1, (2 * steps * old + new) // (2 * new)) if steps else 0


def _refusal(config: ConfigDict, devices: int, fitting: int) -> str:
    train, rate, ratio = config.train, config.optim.learning_rate, fitting / config.train.batch
    linear, sqrt = (f"{rate * RULES[rule](ratio):.4g}" for rule in ("linear", "sqrt"))
    return (
        f"config.train.batch={train.batch} in {train.accumulate} micro-batch(es) cannot be split"
        f" over {devices} devices; the next that can is {fitting}."
        f" --config.optim.scale_rule=linear takes it with learning rate {linear} instead of"
        f" {rate:g} and {_divided(train.steps, train.batch, fitting)} steps instead of"
        f" {train.steps}, so that as many clips are seen (sqrt: with {sqrt});"
        " or use fewer devices (config.mesh.data)"
    )
