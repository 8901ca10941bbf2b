"""Per-frame scores of objects, and the averages that data sets report of them.

Measures: J region similarity and F boundary accuracy in [0, 1]; T temporal instability, lower is
better (DAVIS 2016); E wrong pixels per frame (SegTrack v1). Averages:
- objects: every object counts once, whatever its sequence (DAVIS 2017; with one object per
  sequence also DAVIS 2016, FBMS)
- frames: all frames of all objects in one pool
- categories: sequences within a category, then categories (YouTube-Objects)
- seen: J and F of the objects of seen and of unseen categories, and G, the mean of the four
  (YouTube-VOS)
"""

from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from vos_jax.metrics.statistics import mean_of_known, sequence_statistics

STATISTICS = {
    "J": ("Mean", "Recall", "Decay"),
    "F": ("Mean", "Recall", "Decay"),
    "T": ("Mean",),
    "E": ("Mean",),
}
SEEN_METRICS = ("G", "J_s", "J_u", "F_s", "F_u")
AVERAGES = ("objects", "frames", "categories", "seen")


@dataclass(frozen=True)
class ObjectScores:
    """Scores of one object in its scored frames, in time order.

    values: measure -> float64 [n], n >= 1; T has a value per pair of frames and NaN where it is
    not defined. The name in result files is <sequence>_<object_id>. proposal: the predicted id that
    was matched to the object, in protocols that match.
    """

    sequence: str
    object_id: int
    values: Mapping[str, np.ndarray]
    category: str | None = None
    proposal: int | None = None

    @property
    def name(self) -> str:
        return f"{self.sequence}_{self.object_id}"

    @property
    def frames(self) -> int:
        return len(self.values["J"])

    @cached_property
    def metrics(self) -> dict[str, float]:
        """Metric name -> value, in the order of `metric_names`."""
        found = {}
        for measure, values in self.values.items():
            if STATISTICS[measure] == ("Mean",):
                found[f"{measure}-Mean"] = mean_of_known(values)
                continue
            statistics = sequence_statistics(values)
            for statistic, value in zip(STATISTICS[measure], statistics, strict=True):
                found[f"{measure}-{statistic}"] = value
        return _with_j_and_f(found)


def metric_names(measures: Sequence[str], average: str = "objects") -> tuple[str, ...]:
    """The metrics `dataset_metrics` reports, in its order."""
    left_out = {"Decay"} if average == "frames" else {}
    names = [f"{m}-{s}" for m in measures for s in STATISTICS[m] if s not in left_out]
    both = ["J&F-Mean"] if {"J", "F"} <= set(measures) else []
    return (*(SEEN_METRICS if average == "seen" else ()), *both, *names)


def dataset_metrics(
    objects: Sequence[ObjectScores],
    average: str = "objects",
    seen: Collection[str] | None = None,
) -> dict[str, float]:
    """The numbers of a set of objects, averaged as the module's docstring says.

    seen: names of the seen categories, for average "seen"; None leaves G and its four parts NaN,
    as does a set without seen or without unseen objects. NaN values of single objects are left out
    of the means. J&F-Mean is the mean of J-Mean and F-Mean.
    Raises ValueError when there is no object, or an object without the category that is needed.
    """
    if not objects:
        raise ValueError("no object has a scored frame, so there is nothing to average")
    if average == "frames":
        return _pooled(objects)
    if average == "categories":
        groups = group_by(objects, _category)
        return _mean_of([_mean_of([o.metrics for o in group]) for group in groups.values()])
    plain = _mean_of([o.metrics for o in objects])
    return {**_seen_unseen(objects, seen), **plain} if average == "seen" else plain


def group_by(
    objects: Iterable[ObjectScores], key: Callable[[ObjectScores], Hashable]
) -> dict[Hashable, list[ObjectScores]]:
    """Objects by key, keys in the order of first appearance."""
    groups: dict[Hashable, list[ObjectScores]] = {}
    for scores in objects:
        groups.setdefault(key(scores), []).append(scores)
    return groups


def sequence_metrics(objects: Sequence[ObjectScores]) -> dict[str, dict[str, float]]:
    """The plain means of each sequence's objects, by sequence in the order of first appearance."""
    groups = group_by(objects, lambda scores: scores.sequence)
    return {name: dataset_metrics(group) for name, group in groups.items()}


def _pooled(objects: Sequence[ObjectScores]) -> dict[str, float]:
    found = {}
    for measure in objects[0].values:
        values = np.concatenate([o.values[measure] for o in objects])
        found[f"{measure}-Mean"] = mean_of_known(values)
        if "Recall" in STATISTICS[measure]:
            found[f"{measure}-Recall"] = sequence_statistics(values).recall
    return _with_j_and_f(found)


def _seen_unseen(objects: Sequence[ObjectScores], seen: Collection[str] | None) -> dict[str, float]:
    """G and its parts (YouTube-VOS)."""
    found = dict.fromkeys(SEEN_METRICS, float("nan"))
    if seen is None:
        return found
    groups = group_by(objects, lambda scores: _category(scores) in seen)
    for known, suffix in ((True, "s"), (False, "u")):
        for measure in ("J", "F"):
            values = [o.metrics[f"{measure}-Mean"] for o in groups.get(known, ())]
            found[f"{measure}_{suffix}"] = mean_of_known(values)
    found["G"] = float(np.mean([found[name] for name in SEEN_METRICS[1:]]))
    return found


def _category(scores: ObjectScores) -> str:
    if not scores.category:
        raise ValueError(
            f"object {scores.name} has no category, but the average is taken over categories;"
            " use a data set that names them, or another average"
        )
    return scores.category


def _mean_of(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return _with_j_and_f({name: mean_of_known([row[name] for row in rows]) for name in rows[0]})


def _with_j_and_f(found: dict[str, float]) -> dict[str, float]:
    """J&F-Mean, first of all, where both parts are there."""
    if not {"J-Mean", "F-Mean"} <= set(found):
        return found
    both = (found["J-Mean"] + found["F-Mean"]) / 2
    return {"J&F-Mean": both} | found | {"J&F-Mean": both}
