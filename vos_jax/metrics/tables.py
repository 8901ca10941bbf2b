"""From per-frame scores of objects to official averages, result files and printed tables.

Averages and file layouts are those of davis2017-evaluation: every object counts once, whatever the
number of objects or frames of its sequence. scores.json repeats the numbers in full precision.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from etils import epath

from vos_jax.metrics.statistics import Statistics, sequence_statistics

METRICS = ("J&F-Mean", "J-Mean", "J-Recall", "J-Decay", "F-Mean", "F-Recall", "F-Decay")


@dataclass(frozen=True)
class ObjectScores:
    """Scores of one object in its scored frames, in time order.

    j, f: float64 [n] with n >= 1. The name in result files is <sequence>_<object_id>.
    """

    sequence: str
    object_id: int
    j: np.ndarray
    f: np.ndarray

    @property
    def name(self) -> str:
        return f"{self.sequence}_{self.object_id}"

    @cached_property
    def j_statistics(self) -> Statistics:
        return sequence_statistics(self.j)

    @cached_property
    def f_statistics(self) -> Statistics:
        return sequence_statistics(self.f)


def metrics(objects: Sequence[ObjectScores]) -> dict[str, float]:
    """The seven global numbers: plain means over all objects, J&F the mean of J and F.

    Raises ValueError when there is no object to average.
    """
    if not objects:
        raise ValueError("no object has a scored frame, so there is nothing to average")
    j = np.mean([o.j_statistics for o in objects], axis=0)
    f = np.mean([o.f_statistics for o in objects], axis=0)
    values = [(j[0] + f[0]) / 2, *j, *f]
    return {name: float(value) for name, value in zip(METRICS, values, strict=True)}


def sequence_metrics(objects: Sequence[ObjectScores]) -> dict[str, dict[str, float]]:
    """`metrics` of each sequence's objects, by sequence in the order of first appearance."""
    groups: dict[str, list[ObjectScores]] = {}
    for scores in objects:
        groups.setdefault(scores.sequence, []).append(scores)
    return {name: metrics(group) for name, group in groups.items()}


def global_csv(objects: Sequence[ObjectScores]) -> str:
    """Text of the official global_results-<set>.csv."""
    return _csv([METRICS, [_three(v) for v in metrics(objects).values()]])


def per_sequence_csv(objects: Iterable[ObjectScores]) -> str:
    """Text of the official per-sequence_results-<set>.csv: one row per object."""
    rows = [(o.name, _three(o.j_statistics.mean), _three(o.f_statistics.mean)) for o in objects]
    return _csv([("Sequence", "J-Mean", "F-Mean"), *rows])


def scores_json(objects: Sequence[ObjectScores], protocol: str, settings: Mapping[str, Any]) -> str:
    """Text of scores.json: {protocol, metrics, per_sequence, per_object, settings}."""
    content = {
        "protocol": protocol,
        "metrics": metrics(objects),
        "per_sequence": sequence_metrics(objects),
        "per_object": {o.name: {**metrics([o]), "frames": len(o.j)} for o in objects},
        "settings": dict(settings),
    }
    return json.dumps(content, indent=2) + "\n"


def result_files(subset: str) -> tuple[str, str, str]:
    """Names of the three result files of a set."""
    return f"global_results-{subset}.csv", f"per-sequence_results-{subset}.csv", "scores.json"


def refuse_existing(folder: epath.PathLike, subset: str, overwrite: bool = False) -> None:
    """Raises FileExistsError when `folder` holds results already: stale scores are a trap."""
    found = [name for name in result_files(subset) if (epath.Path(folder) / name).exists()]
    if found and not overwrite:
        raise FileExistsError(
            f"{folder} holds results already: {', '.join(found)}; choose another folder or allow "
            "overwriting"
        )


def write_results(
    folder: epath.PathLike,
    objects: Sequence[ObjectScores],
    *,
    protocol: str,
    subset: str = "val",
    settings: Mapping[str, Any],
    overwrite: bool = False,
) -> None:
    """Write both official CSVs and scores.json to `folder`; see `refuse_existing`."""
    refuse_existing(folder, subset, overwrite)
    texts = (
        global_csv(objects),
        per_sequence_csv(objects),
        scores_json(objects, protocol, settings),
    )
    folder = epath.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in zip(result_files(subset), texts, strict=True):
        (folder / name).write_text(text)


def method_table(methods: Mapping[str, Sequence[ObjectScores]]) -> str:
    """One row per method with the seven global numbers."""
    rows = [(name, *map(_three, metrics(o).values())) for name, o in methods.items()]
    return format_table([("method", *METRICS), *rows])


def sequence_table(methods: Mapping[str, Sequence[ObjectScores]]) -> str:
    """One row per sequence with the J&F of every method."""
    columns = {name: sequence_metrics(objects) for name, objects in methods.items()}
    sequences = list(next(iter(columns.values())))
    rows = [(s, *(_three(c[s]["J&F-Mean"]) for c in columns.values())) for s in sequences]
    return format_table([("J&F-Mean", *columns), *rows])


def format_table(rows: Sequence[Sequence[str]]) -> str:
    """Aligned text: the first row is the header, the first column is left-aligned."""
    widths = [max(len(str(cell)) for cell in column) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [f"{row[0]:<{widths[0]}}"]
        cells += [f"{cell:>{width}}" for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join(cells).rstrip())
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)


def _csv(rows: Iterable[Sequence[str]]) -> str:
    return "".join(",".join(row) + "\n" for row in rows)


def _three(value: float) -> str:
    return f"{value:.3f}"
