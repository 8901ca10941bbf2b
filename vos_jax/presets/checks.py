"""What the fields of a config may be: type, range and shape, checked before a run begins.

A value that makes no sense otherwise shows itself hours later, or as an error of a library that
does not know the field. What a field means is said in presets/common.py, and what those of a system
mean at its module; a rule here says which values have that meaning.
"""

import math
import numbers
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from vos_jax.data.augment import FITS, INTERPOLATIONS, groups_of
from vos_jax.data.example import TRANSPORTS
from vos_jax.data.instance_examples import CHOICES
from vos_jax.data.objects import RULES as RULES_OF_OBJECTS
from vos_jax.data.sampling import CHOOSERS
from vos_jax.metrics.protocols import INSTANCES, PROTOCOLS, TEMPORAL
from vos_jax.ops.platforms import PRECISIONS
from vos_jax.systems.build import build_model, model_fields
from vos_jax.systems.table import SYSTEMS
from vos_jax.train.batch_rule import RULES as SCALE_RULES

LARGE = 2**31 - 1
SIDE = 2**14  # pixels of a frame's side
MEGA = 2**20  # of channels, pixels, samples: beyond any machine


class Rule(NamedTuple):
    """expected: what a value must be, in words. holds: whether it is."""

    expected: str
    holds: Callable[[Any], bool]


def whole(least: int = 0, most: int = LARGE) -> Rule:
    """An integer; a bool is none."""
    holds = lambda x: _is(x, numbers.Integral) and least <= x <= most  # noqa: E731
    return Rule(f"a whole number from {least} to {most}", holds)


def number(least: float = 0.0, most: float = 1e9, above: bool = False) -> Rule:
    """A finite number; above: larger than `least`."""
    words = f"a number {'above' if above else 'from'} {least:g} to {most:g}"

    def holds(x):
        return _is(x, numbers.Real) and (least < x if above else least <= x) and x <= most

    return Rule(words, holds)


def one_of(*names: str) -> Rule:
    """One of these texts."""
    return Rule(f"one of {', '.join(names)}", lambda x: isinstance(x, str) and x in names)


def several(rule: Rule, length: int | None = None, least: int = 0) -> Rule:
    """A tuple or list whose elements follow a rule."""
    count = f"{length} values" if length else f"{least} or more values" if least else "values"

    def holds(x):
        right = isinstance(x, list | tuple) and len(x) >= least and length in (None, len(x))
        return right and all(map(rule.holds, x))

    return Rule(f"{count}, each {rule.expected}", holds)


def either(*rules: Rule) -> Rule:
    """What follows any of the rules."""
    words = " or ".join(rule.expected for rule in rules)
    return Rule(words, lambda x: any(rule.holds(x) for rule in rules))


def ascending(rule: Rule) -> Rule:
    """Lowest and highest."""
    pair = several(rule, 2)
    words = f"lowest and highest, each {rule.expected}"
    return Rule(words, lambda x: pair.holds(x) and x[0] <= x[1])


def _pattern(x: Any) -> bool:
    try:
        return isinstance(x, str) and re.compile(x) is not None
    except re.error:
        return False


def _multiplier(x: Any) -> bool:
    pair = isinstance(x, list | tuple) and len(x) == 2
    return pair and _pattern(x[0]) and number().holds(x[1])


def _rate(x: Any) -> bool:
    if _multiplier(x):
        return True
    pair = isinstance(x, list | tuple) and len(x) == 2
    return pair and _pattern(x[0]) and several(number(), least=1).holds(x[1])


def _is_size(x: Any) -> bool:
    sides = several(whole(0, SIDE), 2)
    return sides.holds(x) and (x[0] > 0) == (x[1] > 0)


def _profiled(x: Any) -> bool:
    return x in ((), []) or (several(whole(1), 2).holds(x) and x[0] <= x[1])


TEXT = Rule("a text", lambda x: isinstance(x, str))
SWITCH = Rule("True or False", lambda x: isinstance(x, bool))
SHARE = number(0, 1)
PATTERNS = several(Rule("a regular expression", _pattern))
MULTIPLIERS = several(Rule("a pair (regular expression, factor from 0)", _multiplier))
RATES = several(Rule("a pair (regular expression, factor from 0 or several)", _rate))
DTYPE = one_of("float32", "bfloat16", "float16")

DATA = {
    "dir": TEXT,
    "crop": several(whole(1, SIDE), 2),
    "fit": one_of(*FITS),
    "short_side": whole(0, SIDE),
    "scale": ascending(number(0, 100, above=True)),
    "interpolation": one_of(*INTERPOLATIONS),
    "contrast": SWITCH,
    "flip": SHARE,
    "max_objects": whole(1, 254),
    "objects.rule": one_of(*RULES_OF_OBJECTS),
    "objects.pixels": whole(),
    "objects.merge": SWITCH,
    "classes": several(TEXT),
    "clip.choose": one_of(*CHOOSERS, *CHOICES),
    "clip.reach": whole(1),
    "sides": several(whole(1, SIDE), least=2),
    "inclusive": SWITCH,
    "clip.frames": whole(1, 1000),
    "clip.max_gap": whole(1),
    "clip.growth.start": whole(),
    "clip.growth.step": whole(),
    "clip.growth.every": whole(1),
    "groups": several(several(whole(0, 999), least=1), least=1),
    "warp.rotate": number(0, 360),
    "warp.shear": number(0, 89),
    "warp.zoom": ascending(number(0, 100, above=True)),
    "warp.shift": number(0, 10),
    "warp.elastic": number(0, SIDE),
    "warp.colour": number(0, 100),
    "warp.shared": SWITCH,
    "warp.released": SWITCH,
    "balance.tries": whole(0, 1000),
    "balance.pixels": whole(),
    "paste": whole(0, 254),
    "workers": whole(1, 1024),
    "processes": whole(0, 1024),
    "transport": one_of(*TRANSPORTS),
    "on_bad_clip": one_of("raise", "skip"),
}
RULES = {
    "seed": whole(0, 2**32 - 1),
    **{f"data.{name}": rule for name, rule in DATA.items()},
    **{f"data.pretrain.{name}": rule for name, rule in DATA.items()},
    "data.pretrain.steps": whole(),
    **{f"data.alternate.{name}": rule for name, rule in DATA.items()},
    "data.alternate.every": whole(),
    "train.steps": whole(1),
    "train.batch": whole(1),
    "train.accumulate": whole(1),
    "train.ema": Rule("a number from 0, below 1", lambda x: SHARE.holds(x) and x < 1),
    "train.num_given": whole(0, 1000),
    "train.teacher_forcing_steps": whole(),
    "train.frames_apart": SWITCH,
    "train.remat": one_of("none", "blocks"),
    "train.slot_buckets": SWITCH,
    "train.save_steps": whole(),
    "train.save_minutes": number(),
    "train.keep_last": whole(1),
    "optim.name": one_of("adam", "sgd"),
    "optim.learning_rate": number(above=True),
    "optim.scale_rule": one_of(*SCALE_RULES),
    "optim.schedule": one_of("constant", "poly", "step"),
    "optim.steps": whole(),
    "optim.power": number(0, 100),
    "optim.boundaries": several(whole()),
    "optim.decay_factor": number(0, 100, above=True),
    "optim.floor": number(),
    "optim.warmup_steps": whole(),
    "optim.warmup_start": SHARE,
    "optim.momentum": SHARE,
    "optim.nesterov": SWITCH,
    "optim.b1": SHARE,
    "optim.b2": SHARE,
    "optim.eps": number(),
    "optim.weight_decay": number(),
    "optim.decay": PATTERNS,
    "optim.gradient_multipliers": MULTIPLIERS,
    "optim.rate_multipliers": RATES,
    "optim.clip": one_of("none", "global", "per_parameter"),
    "optim.clip_norm": number(above=True),
    "optim.freeze": PATTERNS,
    "eval.every": whole(),
    "eval.videos": whole(),
    "eval.protocol": one_of(*PROTOCOLS, INSTANCES),
    "eval.temporal": one_of(*TEMPORAL),
    "eval.seen": TEXT,
    "eval.metric": TEXT,
    "eval.floors": several(TEXT),
    "eval.overlay": SWITCH,
    "eval.linkers": several(TEXT),
    "inference.linker": TEXT,
    "inference.propagation": TEXT,
    "inference.slots": whole(0, 254),
    "inference.scales": several(number(0, 100, above=True), least=1),
    "inference.flip": SWITCH,
    "inference.crf": SWITCH,
    "inference.crf_settings.steps": whole(0, 1000),
    "inference.crf_settings.near_pixels": number(0, SIDE, above=True),
    "inference.crf_settings.alike_pixels": number(0, SIDE, above=True),
    "inference.crf_settings.alike_colour": number(0, 1000, above=True),
    "mesh.data": either(Rule("-1", lambda x: x == -1), whole(1)),
    "mesh.fsdp": either(Rule("-1", lambda x: x == -1), whole(1)),
    "log.every": whole(1),
    "profile_steps": Rule("() or first and last step, each from 1", _profiled),
    "init.backbone": TEXT,
    "init.model": TEXT,
    "init.fresh": PATTERNS,
}
# Of systems' fields, those that a default does not tell: 0 means something, or there is a limit.
FIELDS = {
    "dtype": DTYPE,
    "matching_dtype": DTYPE,
    "output_stride": Rule("8 or 16", lambda x: x in (8, 16)),
    "precision": one_of(*PRECISIONS),
    "kernel_bytes": whole(),
    "width": number(0, 64, above=True),
    "scale": number(0, 100, above=True),
    "momentum": SHARE,
    "dropout": Rule("a number from 0, below 1", lambda x: SHARE.holds(x) and x < 1),
    "fraction": number(0, 1, above=True),
    "short_side": whole(0, SIDE),
    "size": Rule("height and width, or (0, 0) for frames as they are", _is_size),
    "window": whole(0, 1024),
    "k_nearest": whole(1, 1024),
    "mining_steps": whole(1),
    "top_k": whole(0, MEGA),
    "memory_every": whole(),
    "live_from": whole(0, 5),
    "components": Rule("2 or 4", lambda x: x in (2, 4)),
    "update_rate": SHARE,
    "capacity": whole(0, MEGA),
    "length": whole(1, MEGA),
    "proposals": whole(1, 254),
    "classes": whole(1, 65_536),
    "canvas": several(whole(0, SIDE), least=2),
    "image_scale": several(whole(0, SIDE), least=2),
    "threshold": SHARE,
    "id_threshold": SHARE,
    "predicted_masks": SHARE,
    "reach": whole(0, 1000),
    "refined_side": whole(0, SIDE),
    "min_share": SHARE,
    "curriculum_start": whole(),
    "box_from": whole(),
    "class_from": whole(),
    "stop_from": whole(),
    "min_pixels": whole(),
    "num_references": whole(0, 1000),
    "max_long_edge": whole(0, SIDE),
    "windows": either(TEXT, several(several(whole(0, 1024), least=1), least=1)),
}


def check_config(config: Mapping) -> None:
    """Compares the fields of a config with their rules; fields without one are left alone.

    Raises ValueError with a line for each field that breaks its rule.
    """
    problems = [
        f"config.{name}: expected {rule.expected}, found {value!r}"
        for name, value, rule in _ruled(config)
        if not rule.holds(value)
    ]
    if not problems and "train" in config and "groups" in config.get("data", {}):
        problems = [
            *_frames_that_do_not_fit(config),
            *_transport_that_does_not_fit(config["data"]),
            *_slots_that_do_not_fit(config),
        ]
    if problems:
        raise ValueError("\n".join(problems))


def _ruled(config: Mapping) -> Iterator[tuple[str, Any, Rule]]:
    """Name, value and rule of every field that has one."""
    for name, value in _leaves(config):
        if name in RULES:
            yield name, value, RULES[name]
    section = config.get("model") or {}
    entry = SYSTEMS.get(section.get("name"))
    if entry is None:  # who builds the model says which names there are
        return
    fields = model_fields(entry.model)
    places = {"model": section, "train.model": config.get("train", {}).get("model") or {}}
    places |= {part: config.get(part) or {} for part in ("inference", "loss")}
    for place, values in places.items():
        for field, value in values.items():
            rule = FIELDS.get(field) or _like(fields.get(field, value))
            if rule is not None and f"{place}.{field}" not in RULES and field != "name":
                yield f"{place}.{field}", value, rule


def _frames_that_do_not_fit(config: Mapping) -> Iterator[str]:
    """Fields that count the frames of a clip in different ways."""
    data = config["data"]
    for place, own in _stages(data).items():
        frames = own.get("clip", data["clip"]).get("frames", data["clip"]["frames"])
        groups = own.get("groups", data["groups"])
        if sorted(t for group in groups_of(groups, frames) for t in group) != list(range(frames)):
            yield (
                f"config.{place}.groups: expected each frame 0..{frames - 1} of a clip"
                f" (clip.frames is {frames}) once, found {groups!r}"
            )
        if config["train"]["num_given"] >= frames:
            yield (
                f"config.train.num_given: expected fewer than the {frames} frames of a clip"
                f" (config.{place}.clip.frames), found {config['train']['num_given']}"
            )


def _transport_that_does_not_fit(data: Mapping) -> Iterator[str]:
    """Whole grey levels of 0..255 for frames that are none."""
    for place, own in _stages(data).items():
        how = own.get("interpolation", data["interpolation"])
        if data.get("transport") == "uint8" and how == "cubic":
            yield (
                f"config.data.transport: expected float32 or float16 where"
                f" config.{place}.interpolation is cubic, whose values leave 0..255, found uint8"
            )


def _stages(data: Mapping) -> dict[str, Mapping]:
    """What is different in each part of a run, by the place in the config that says so."""
    stages = {"data": {}}
    for name, count in {"pretrain": "steps", "alternate": "every"}.items():
        if data.get(name, {}).get(count):
            stages[f"data.{name}"] = data[name]
    return stages


def _slots_that_do_not_fit(config: Mapping) -> Iterator[str]:
    """Slots of training where a system has as many as it proposes."""
    try:
        traits = build_model(config["model"], **config["train"]["model"]).traits
    except ValueError:  # told where the model is built
        return
    slots = config["data"]["max_objects"]
    if traits.guidance == "none" and slots != traits.proposals:
        yield (
            f"config.data.max_objects: expected {traits.proposals}, as many as"
            f" {config['model']['name']} proposes, found {slots}"
        )
    if traits.guidance == "none" and config["train"].get("slot_buckets"):
        yield (
            f"config.train.slot_buckets: expected False, for {config['model']['name']} proposes as"
            " many objects for every clip, found True"
        )


def _like(default: Any) -> Rule | None:
    """The rule of a field that has such a default."""
    if isinstance(default, bool):
        return SWITCH
    if isinstance(default, int):
        return whole(1, MEGA)
    if isinstance(default, float):
        return number()
    if isinstance(default, str):
        return TEXT
    if isinstance(default, tuple) and default and all(_is(x, numbers.Integral) for x in default):
        return several(whole(1, MEGA), least=1)
    return None


def _leaves(section: Mapping, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in section.items():
        name = f"{prefix}{key}"
        section = isinstance(value, Mapping) or hasattr(value, "items")
        if section and name not in RULES:  # else a section where a value belongs
            yield from _leaves(value, f"{name}.")
        else:
            yield name, value


def _is(x: Any, kind: type) -> bool:
    return isinstance(x, kind) and not isinstance(x, bool) and math.isfinite(x)
