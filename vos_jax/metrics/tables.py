"""Result files and printed tables.

File names and layouts are those of davis2017-evaluation, for other protocols with the columns of
their measures. scores.json repeats the numbers in full precision, with what was counted and how.
"""

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from etils import epath

from vos_jax.files import write_whole
from vos_jax.metrics.protocols import Protocol
from vos_jax.metrics.scorer import SequenceScorer
from vos_jax.metrics.scores import ObjectScores, dataset_metrics, group_by, sequence_metrics
from vos_jax.metrics.text_table import format_table

GROUPINGS = ("objects", "category")


def global_csv(protocol: Protocol, objects: Sequence[ObjectScores]) -> str:
    """Text of the official global_results-<set>.csv."""
    found = protocol.metrics(objects)
    return _csv([tuple(found), [_three(value) for value in found.values()]])


def per_sequence_csv(protocol: Protocol, objects: Sequence[ObjectScores]) -> str:
    """Text of the official per-sequence_results-<set>.csv: one row per object.

    Where proposals were matched, the official code lists a sequence's matched proposals in order
    and numbers them from 1: row <sequence>_<k> need not be object k. scores.json is by object.
    """
    return _csv(_object_rows(protocol, objects))


def scores_json(
    protocol: Protocol, objects: Sequence[ObjectScores], settings: Mapping[str, Any]
) -> str:
    """Text of scores.json: {protocol, metrics, per_sequence, per_object, settings}; NaN is null."""
    content = {
        "protocol": protocol.name,
        "metrics": protocol.metrics(objects),
        "per_sequence": sequence_metrics(objects),
        "per_object": {scores.name: _facts(scores) for scores in objects},
        "settings": {**protocol.conventions, **settings},
    }
    return json.dumps(_without_nan(content), indent=2) + "\n"


def result_files(subset: str) -> tuple[str, str, str]:
    """Names of the three result files of a set."""
    return f"global_results-{subset}.csv", f"per-sequence_results-{subset}.csv", "scores.json"


def refuse_existing(folder: epath.PathLike, subset: str, overwrite: bool = False) -> None:
    """Raises FileExistsError when `folder` holds results already: stale scores are a trap."""
    found = [name for name in result_files(subset) if (epath.Path(folder) / name).exists()]
    if found and not overwrite:
        raise FileExistsError(
            f"{folder} holds results already: {', '.join(found)}; choose another folder or allow "
            "overwriting (--overwrite)"
        )


def write_results(
    folder: epath.PathLike,
    protocol: Protocol,
    objects: Sequence[ObjectScores],
    *,
    subset: str = "val",
    settings: Mapping[str, Any],
    overwrite: bool = False,
) -> None:
    """Write both official CSVs and scores.json to `folder`; see `refuse_existing`."""
    refuse_existing(folder, subset, overwrite)
    texts = (
        global_csv(protocol, objects),
        per_sequence_csv(protocol, objects),
        scores_json(protocol, objects, settings),
    )
    folder = epath.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in zip(result_files(subset), texts, strict=True):
        write_whole(folder / name, text.encode())


def method_table(protocol: Protocol, methods: Mapping[str, Sequence[ObjectScores]]) -> str:
    """One row per method with the protocol's numbers."""
    rows = [(name, *map(_three, protocol.metrics(o).values())) for name, o in methods.items()]
    return format_table([("method", *protocol.metric_names), *rows])


def sequence_table(protocol: Protocol, methods: Mapping[str, Sequence[ObjectScores]]) -> str:
    """One row per sequence with the J&F (or J alone) of every method."""
    metric = "J&F-Mean" if "F" in protocol.measures else "J-Mean"
    columns = {name: sequence_metrics(objects) for name, objects in methods.items()}
    sequences = list(next(iter(columns.values())))
    rows = [(s, *(_three(c[s][metric]) for c in columns.values())) for s in sequences]
    return format_table([(metric, *columns), *rows])


def object_table(protocol: Protocol, objects: Sequence[ObjectScores]) -> str:
    """The rows of the per-sequence file, aligned."""
    return format_table(_object_rows(protocol, objects))


def grouped_table(protocol: Protocol, objects: Sequence[ObjectScores], by: str) -> str:
    """The protocol's numbers for groups of objects.

    by: "objects" groups sequences by their number of scored objects (RVOS, table 3), "category"
    objects by category (YouTube-Objects). Within a group the average is the protocol's; categories
    are plain means over sequences. Raises ValueError where an object has no category.
    """
    if by == "objects":
        counts = {name: len(o) for name, o in group_by(objects, lambda s: s.sequence).items()}
        groups = group_by(objects, lambda scores: counts[scores.sequence])
        metrics = {key: protocol.metrics(groups[key]) for key in sorted(groups)}
    else:
        nameless = [scores.name for scores in objects if not scores.category]
        if nameless:
            raise ValueError(
                f"{len(nameless)} objects have no category, the first is {nameless[0]}; group by"
                " category where the data set names categories (youtube-vos, youtube-objects)"
            )
        groups = group_by(objects, lambda scores: scores.category)
        metrics = {key: dataset_metrics(groups[key]) for key in sorted(groups)}
    rows = []
    for key, found in metrics.items():
        sequences = len({scores.sequence for scores in groups[key]})
        rows.append((str(key), str(sequences), str(len(groups[key])), *map(_three, found.values())))
    head = "objects per sequence" if by == "objects" else by
    columns = next(iter(metrics.values()))
    return format_table([(head, "sequences", "objects", *columns), *rows])


def counts(scorers: Iterable[SequenceScorer]) -> dict[str, int]:
    """How much was counted: videos, objects, frames; of scorers fed or not."""
    found = dict.fromkeys(
        (
            "videos",
            "objects",
            "objects_left_out",
            "frames",
            "scored_frames",
            "scored_object_frames",
        ),
        0,
    )
    for scorer in scorers:
        found["videos"] += 1
        found["objects"] += scorer.num_objects
        found["objects_left_out"] += scorer.scored.shape[1] - scorer.num_objects
        found["frames"] += scorer.scored.shape[0]
        found["scored_frames"] += int(scorer.scored.any(axis=1).sum())
        found["scored_object_frames"] += int(scorer.scored.sum())
    return found


def statement(protocol: Protocol, settings: Mapping[str, Any]) -> str:
    """What a table counts, in a sentence; settings: with the `counts`."""
    words = protocol.conventions
    return (
        f"protocol {protocol.name}: {settings['videos']} videos, {settings['objects']} objects"
        f" ({settings['objects_left_out']} without a scored frame left out),"
        f" {settings['scored_frames']} of {settings['frames']} frames scored"
        f" ({settings['scored_object_frames']} object frames); compared {words['objects']}; void"
        f" pixels of the annotation: {words['void']}; {words['average']}."
    )


def _object_rows(protocol: Protocol, objects: Sequence[ObjectScores]) -> list[tuple[str, ...]]:
    """Header and one row per object of the per-sequence file."""
    columns = [f"{measure}-Mean" for measure in protocol.measures]
    rows = [
        (name, *(_three(scores.metrics[column]) for column in columns))
        for name, scores in _named_rows(objects)
    ]
    return [("Sequence", *columns), *rows]


def _named_rows(objects: Sequence[ObjectScores]) -> Iterable[tuple[str, ObjectScores]]:
    """The objects in the order of the per-sequence file, with their names in it."""
    for sequence, group in group_by(objects, lambda scores: scores.sequence).items():
        if group[0].proposal is None:
            yield from ((scores.name, scores) for scores in group)
        else:
            group = sorted(group, key=lambda scores: scores.proposal)
            yield from ((f"{sequence}_{k}", scores) for k, scores in enumerate(group, 1))


def _facts(scores: ObjectScores) -> dict[str, Any]:
    """What scores.json says of one object."""
    facts = {**scores.metrics, "frames": scores.frames}
    if scores.category:
        facts["category"] = scores.category
    if scores.proposal is not None:
        facts["proposal"] = scores.proposal
    return facts


def _without_nan(content: Any) -> Any:
    """JSON has no NaN: null says that there is no such number."""
    if isinstance(content, Mapping):
        return {key: _without_nan(value) for key, value in content.items()}
    return None if isinstance(content, float) and math.isnan(content) else content


def _csv(rows: Iterable[Sequence[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _three(value: float) -> str:
    return f"{value:.3f}"
