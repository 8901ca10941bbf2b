"""Reference fixtures of the official implementations: where they lie and their weights by rule.

Each system has a folder with spec.json (names, shapes, seeds, gains) and .npz files (inputs and the
official outputs). tests/golden holds them; VOS_JAX_FIXTURES=DIR reads DIR/<system> instead, for a
larger set in the same layout. The weight rule is described in tests/golden/README.md.
"""

import functools
import json
import os
import re
import zlib
from collections.abc import Collection
from pathlib import Path

import numpy as np
import pytest

GOLDEN = Path(__file__).parent / "golden"


def fixture(system: str) -> Path:
    """The folder of one system's fixtures; FileNotFoundError if there is none."""
    folder = Path(os.environ.get("VOS_JAX_FIXTURES") or GOLDEN) / system
    if not folder.is_dir():
        raise FileNotFoundError(
            f"no fixtures of {system!r} in {folder.parent}: expected the folder {folder} "
            "(unset VOS_JAX_FIXTURES to use the ones in tests/golden)"
        )
    return folder


def load_npz(system: str, name: str) -> dict[str, np.ndarray]:
    """All arrays of <system>/<name>.npz."""
    with np.load(fixture(system) / f"{name.removesuffix('.npz')}.npz") as arrays:
        return {key: arrays[key] for key in arrays.files}


def skip_where_trimmed(name: str, case: Collection[str], trimmed: Collection[str]) -> None:
    """Skips a test of one array that tests/golden leaves out to stay small.

    Args:
        name: the array in the full fixture.
        case: names of the arrays that are here.
        trimmed: names that may be missing; any other is an error where its array is read.
    """
    if name in trimmed and name not in case:
        pytest.skip(f"tests/golden leaves out {name}: VOS_JAX_FIXTURES=DIR compares it")


def load_spec(system: str) -> dict:
    """<system>/spec.json."""
    return json.loads((fixture(system) / "spec.json").read_text())


def golden_parameters(spec: dict, seed: int | None = None) -> dict[str, np.ndarray]:
    """Every parameter of a spec by the weight rule: official name -> read-only array.

    seed: the spec's own unless given. Names with "/" are TensorFlow's (kernels HWIO), others
    PyTorch's. Cached: 41 M values take about a second to draw.
    """
    drawn = {key: spec[key] for key in ("params", "gains", "slice_gains") if key in spec}
    seed = spec["seed"] if seed is None else seed
    return dict(_draw_all(json.dumps(drawn), seed))


@functools.lru_cache(maxsize=2)
def _draw_all(spec_json: str, seed: int) -> dict[str, np.ndarray]:
    spec = json.loads(spec_json)
    values = {}
    for name, shape in spec["params"]:
        value = _draw(name, tuple(shape), seed)
        for pattern, factor in spec.get("gains", ()):
            if re.search(pattern, name):
                value = value * factor
        for sliced, axis, start, stop, factor in spec.get("slice_gains", ()):
            if sliced == name:
                value[(slice(None),) * axis + (slice(start, stop),)] *= factor
        values[name] = value.astype(np.int64 if name.endswith("tracked") else np.float32)
        values[name].setflags(write=False)
    return values


def _draw(name: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """One parameter before gains, float64; the generator is seeded by (seed, crc32(name))."""
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    leaf = re.split(r"[./]", name)[-1]
    if leaf == "num_batches_tracked":
        return np.zeros(shape)
    if leaf in ("running_mean", "moving_mean"):
        return rng.normal(0, 0.1, shape)
    if leaf in ("running_var", "moving_variance"):
        return rng.uniform(0.6, 1.4, shape)
    if len(shape) >= 2:
        return rng.normal(0, np.sqrt(1.6 / _fan_in(name, leaf, shape)), shape)
    if leaf in ("weight", "gamma"):
        return rng.uniform(0.5, 1.0, shape)
    return rng.normal(0, 0.05, shape)


def _fan_in(name: str, leaf: str, shape: tuple[int, ...]) -> int:
    """Inputs per output value: torch OIHW and TF HWIO kernels, TF depthwise (kh, kw, C, 1)."""
    if leaf == "depthwise_weights":
        return shape[0] * shape[1]
    return int(np.prod(shape[:-1] if "/" in name else shape[1:]))
