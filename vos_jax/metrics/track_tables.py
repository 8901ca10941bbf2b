"""scores.json and printed tables of `vos_jax.metrics.youtube_vis`."""

import json
from collections.abc import Mapping
from typing import Any

from etils import epath

from vos_jax.files import write_whole
from vos_jax.metrics.text_table import format_table
from vos_jax.metrics.youtube_vis import AREA_RANGES, LIMITS, MAIN_METRICS, TrackScores

PROTOCOL = "youtube-vis"
RESULT_FILE = "scores.json"


def scores_json(scores: TrackScores, settings: Mapping[str, Any]) -> str:
    """Text of scores.json: {protocol, metrics, per_category, per_sequence, id_switches, settings}.

    Numbers are in 0..1; one that there is no truth for is -1.0, as in the official tool.
    """
    content = {
        "protocol": PROTOCOL,
        "metrics": scores.metrics,
        "per_category": scores.per_category,
        "per_sequence": {str(number): facts for number, facts in scores.per_sequence.items()},
        "id_switches": scores.switches.facts(),
        "settings": {
            "class_agnostic": scores.class_agnostic,
            "limits": LIMITS,
            "area_ranges": AREA_RANGES,
            **settings,
        },
    }
    return json.dumps(content, indent=2, allow_nan=False) + "\n"


def refuse_existing(folder: epath.PathLike, overwrite: bool = False) -> None:
    """Raises FileExistsError when `folder` holds scores already: stale ones are a trap."""
    if (epath.Path(folder) / RESULT_FILE).exists() and not overwrite:
        raise FileExistsError(
            f"{folder} holds results already: {RESULT_FILE}; choose another folder or allow"
            " overwriting (--overwrite)"
        )


def write_scores(
    folder: epath.PathLike,
    scores: TrackScores,
    *,
    settings: Mapping[str, Any],
    overwrite: bool = False,
) -> None:
    """Writes scores.json to `folder`; see `refuse_existing`."""
    refuse_existing(folder, overwrite)
    text = scores_json(scores, settings)
    folder = epath.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / RESULT_FILE, text.encode())


def category_table(scores: TrackScores) -> str:
    """One row per category that has a true track or a result."""
    rows = [
        (name, *(_cell(facts[metric]) for metric in MAIN_METRICS))
        + (str(facts["tracks"]), str(facts["detections"]))
        for name, facts in scores.per_category.items()
        if facts["tracks"] or facts["detections"]
    ]
    return format_table([("category", *MAIN_METRICS, "tracks", "detections"), *rows])


def method_table(methods: Mapping[str, TrackScores]) -> str:
    """One row per method with the official numbers and its id switches."""
    metrics = list(next(iter(methods.values())).metrics)
    rows = [
        (name, *(_cell(scores.metrics[metric]) for metric in metrics))
        + (str(scores.switches.switches),)
        for name, scores in methods.items()
    ]
    return format_table([("method", *metrics, "id switches"), *rows])


def statement(scores: TrackScores) -> str:
    """What a table counts, in a sentence."""
    facts = scores.per_sequence.values()
    tracks, found = (sum(each[key] for each in facts) for key in ("tracks", "detections"))
    pooled = "categories play no part" if scores.class_agnostic else "mean over categories"
    return (
        f"protocol {PROTOCOL}: {len(facts)} videos, {tracks} true tracks, {found} results;"
        f" {pooled}; s, m, l: to 128^2, to 256^2, above, in pixels; - where nothing is to be found;"
        f" id switches of the {scores.switches.followed} tracks that were followed."
    )


def _cell(value: float) -> str:
    return "-" if value == -1 else f"{value:.3f}"
