"""Systems so small that they compile in seconds: models, variables, runs; a config file for tests.

As a config file, --config tests/tiny.py:SYSTEM, it is the system's quick preset shrunk to a run of
seconds. What is small about a model stands in the system's entry (`System.tiny`).
"""

import contextlib
import gc
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from vos_jax.data.pipeline import Examples
from vos_jax.inference.streaming import compiled
from vos_jax.presets.common import system_config
from vos_jax.systems.base import VOSModel
from vos_jax.systems.build import build_model, variable_shapes
from vos_jax.systems.table import SYSTEMS
from vos_jax.train.optim import fits, map_with_path, parameter_paths

FRAMES, TEST_FRAMES = 5, 4  # of the clips that a tiny run trains on and is scored with


def tiny_section(system: str, **fields: Any) -> dict[str, Any]:
    """config.model of the tiny system."""
    return {"name": system, **SYSTEMS[system].tiny, **fields}


def tiny_system(system: str, seed: int = 0, **fields: Any) -> tuple[VOSModel, dict[str, Any]]:
    """The tiny system, with fields replaced, and lively variables."""
    model = build_model(tiny_section(system, **fields))
    return model, lively(variable_shapes(model), seed)


def lively(shapes: Mapping[str, Any], seed: int = 0) -> dict[str, Any]:
    """Variables by rule, numpy arrays: what a system says depends on frames, masks and memory.

    Kernels are normal by their inputs, scales of normalisations 0.5 to 1, other small parameters
    0.05 to 0.3 with either sign, statistics near those of normal activations. Each array follows
    from the seed, its path and its shape. Fresh variables say less: last layers begin near zero.
    """

    def draw(path: str, x: Any) -> np.ndarray:
        rng, leaf = np.random.default_rng([seed, zlib.crc32(path.encode())]), path.split("/")[-1]
        if leaf == "var":
            value = rng.uniform(0.6, 1.4, x.shape)
        elif leaf == "mean":
            value = rng.normal(0, 0.1, x.shape)
        elif len(x.shape) > 1:
            value = rng.normal(0, np.sqrt(2 / np.prod(x.shape[:-1])), x.shape)
        elif leaf == "scale":
            value = rng.uniform(0.5, 1, x.shape)
        else:
            value = rng.uniform(0.05, 0.3, x.shape) * rng.choice([-1, 1], x.shape)
        return value.astype(x.dtype)

    return map_with_path(draw, dict(shapes))


@contextlib.contextmanager
def quick_compilation(quick: bool = True) -> Iterator[None]:
    """Programs compiled in here run slower and compile in half the time; False: as usual again."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", quick)
    try:
        yield
    finally:
        jax.config.update("jax_disable_most_optimizations", before)


def unload_programs() -> None:
    """Forgets all compiled programs of this process, and frees their memory."""
    compiled.cache_clear()
    jax.clear_caches()
    gc.collect()


def get_config(system: str) -> ConfigDict:
    """The system's quick preset, shrunk."""
    return shrunk(system_config(system, "quick"))


def shrunk(config: ConfigDict) -> ConfigDict:
    """Four steps with two short clips each, then two clips to evaluate; with the tiny model.

    Everything random is on: dropout, sampling, live normalisation as the config has it, an average
    of the parameters, and the first two steps remember true masks. Most of a MobileNetV2 is frozen,
    which spares compiling its gradient.
    """
    config = config.copy_and_resolve_references()
    entry = SYSTEMS[config.model.name]
    with config.ignore_type():  # the name of a set of windows becomes the windows
        for field, value in entry.tiny.items():
            (config.inference if field in entry.inference else config.model)[field] = value
    rules = {"dropout": 0.1, "scale": 1.0, "short_side": 0}
    config.model.update({field: value for field, value in rules.items() if field in config.model})
    crop = tuple(48 + side % 16 for side in config.data.crop)  # systems want 16 n or 16 n + 1
    config.data.update({"crop": crop, "short_side": 0, "workers": 2})
    traits = build_model(config.model).traits
    alone = traits.guidance == "none"  # then there are as many slots as are proposed
    config.data.max_objects = traits.proposals if alone else 2
    config.data.train, config.data.eval = _clips("train", 3, FRAMES), _clips("test", 2, TEST_FRAMES)
    if config.data.pretrain.steps:
        config.data.pretrain.update({"steps": 1, "train": _clips("train", 3, FRAMES)})
    config.train.update({"steps": 4, "batch": 2, "teacher_forcing_steps": 2, "ema": 0.5})
    config.data.balance.pixels = config.data.objects.pixels = 10  # clips and crops are small
    config.train.save_steps = 0
    # a run of fewer steps is then the beginning of a longer one
    config.optim.update({"steps": 10, "warmup_steps": 0})
    paths = parameter_paths(variable_shapes(build_model(config.model))["params"])
    most = (r"/features_(\d|1[0-6])/",)
    config.optim.freeze = most if any(fits(most, path) for path in paths) else ()
    config.inference.slots = 2
    config.eval.every = 0
    config.log.every = 1
    return config


def examples(config: ConfigDict, rows: int) -> dict[str, np.ndarray]:
    """The first training examples of the config's main stage: frames, masks and valid slots."""
    drawn = Examples.of(config.data, config.seed)
    chosen = [drawn.example(i) for i in range(rows)]
    return {key: np.stack([e[key] for e in chosen]) for key in ("frames", "labels", "valid")}


def _clips(split: str, videos: int, frames: int) -> ConfigDict:
    clips = {"kind": "synthetic", "split": split, "videos": videos, "frames": frames}
    return ConfigDict({"synthetic": clips})
