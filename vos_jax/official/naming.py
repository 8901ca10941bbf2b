"""Strict matching of official arrays with our variables.

A system's module says, for each of our leaves, its official name and how its array turns into
ours. Our leaves are written as one string, "params/backbone/conv1_1/conv/kernel".
"""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from flax import traverse_util

Transform = Callable[[np.ndarray], np.ndarray]


class Source(NamedTuple):
    """Where one of our leaves comes from."""

    name: str
    transform: Transform


class Imported(NamedTuple):
    """The variables, and the official names that were left out although they are weights."""

    variables: dict[str, Any]
    unused: list[str]


def as_is(array: np.ndarray) -> np.ndarray:
    """The same layout here and there."""
    return array


def depthwise_from_tensorflow(array: np.ndarray) -> np.ndarray:
    """(kh, kw, C, 1) -> [kh, kw, 1, C]."""
    return np.swapaxes(array, -1, -2)


def kernel_from_torch(array: np.ndarray) -> np.ndarray:
    """OIHW -> HWIO; depthwise (C, 1, kh, kw) -> [kh, kw, 1, C] by the same move."""
    return np.transpose(array, (2, 3, 1, 0))


def leaves(target: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Path -> shape of each leaf of a variables tree (arrays or jax.ShapeDtypeStruct)."""
    flat = traverse_util.flatten_dict(dict(target), sep="/")
    return {path: tuple(leaf.shape) for path, leaf in flat.items()}


def match(
    arrays: Mapping[str, np.ndarray],
    wanted: Mapping[str, Source],
    shapes: Mapping[str, tuple[int, ...]],
    ignore: Iterable[str] = (),
    listed: Iterable[str] = (),
) -> Imported:
    """Our variables tree out of official arrays, float32.

    wanted: our path -> its source; shapes: our path -> shape. ignore: regular expressions
    (re.search) of official names that are no weights, such as optimizer slots; listed: those of
    weights we have no place for, returned in `unused`. Everything else must match one to one:
    otherwise one ValueError names every missing, unexpected and mis-shaped array with its shape,
    and every one with NaN or infinite values.
    """
    needed = {source.name for source in wanted.values()}
    others = [name for name in arrays if name not in needed and not _any_matches(ignore, name)]
    unexpected = [name for name in others if not _any_matches(listed, name)]

    missing, misshaped, wrong, flat = [], [], [], {}
    for path, (name, transform) in wanted.items():
        if name not in arrays:
            missing.append(f"{name} (for {path} {_show(shapes[path])})")
            continue
        value = arrays[name]
        ours = transform(value) if value.ndim == len(shapes[path]) else value
        if ours.shape != shapes[path]:
            misshaped.append(
                f"{name} {_show(value.shape)}: does not fit {path} {_show(shapes[path])}"
            )
        flat[path] = np.ascontiguousarray(ours, np.float32)
        if not np.isfinite(flat[path]).all():
            wrong.append(f"{name} {_show(value.shape)}: {(~np.isfinite(flat[path])).sum()} values")
    described = [f"{name} {_show(arrays[name].shape)}" for name in sorted(unexpected)]
    problems = {
        "missing": missing,
        "unexpected": described,
        "mis-shaped": misshaped,
        "not finite (NaN or infinite)": wrong,
    }
    if any(problems.values()):
        raise ValueError(_message(problems, len(wanted)))
    unused = sorted(set(others) - set(unexpected))
    return Imported(traverse_util.unflatten_dict(flat, sep="/"), unused)


def _any_matches(patterns: Iterable[str], name: str) -> bool:
    return any(re.search(pattern, name) for pattern in patterns)


def _show(shape: Iterable[int]) -> str:
    return "[" + ", ".join(map(str, shape)) + "]"


def _message(problems: Mapping[str, list[str]], wanted: int) -> str:
    counts = ", ".join(f"{len(names)} {kind}" for kind, names in problems.items() if names)
    lines = [f"the checkpoint does not fit this model: {counts} (the model has {wanted} arrays)"]
    for kind, names in problems.items():
        lines += [f"{kind}:"] * bool(names) + [f"  {name}" for name in names]
    return "\n".join(lines)
