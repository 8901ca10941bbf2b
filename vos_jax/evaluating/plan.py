"""Which process scores which videos, which of them go together, and how the results come together.

Every process makes the same plan of all videos. None waits for another one before its share is
done; whatever went wrong on one of them is then told on all. Before any of it, the metric that the
best checkpoint is chosen by must be one that comes out.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from vos_jax.data.clip import Video
from vos_jax.inference.streaming import bucket


def in_order(videos: Iterable[Video]) -> list[Video]:
    """Those that can go together follow each other: equal sizes, slots, frames with given masks.

    Raises ValueError where there is nothing to score, or two videos have one name.
    """
    videos = sorted(videos, key=lambda v: (*_shape(v), len(v), v.name))
    if not any(np.any(video.scored) for video in videos):
        raise ValueError(f"nothing to evaluate: none of {len(videos)} videos has a scored frame")
    names = [video.name for video in videos]
    double = sorted({name for name in names if names.count(name) > 1})
    if double:
        raise ValueError(f"several videos are called {double}; results are kept by name")
    return videos


def batches(videos: Sequence[Video], width: int) -> list[list[Video]]:
    """The videos, in their order, in batches of at most `width` that can go together.

    A batch costs what its longest video costs, so it holds videos of similar length.
    """
    found: list[list[Video]] = []
    for video in videos:
        if found and len(found[-1]) < width and _shape(found[-1][0]) == _shape(video):
            found[-1].append(video)
        else:
            found.append([video])
    return found


def share(batches: Sequence[list[Video]], process: int, processes: int) -> list[list[Video]]:
    """What a process scores: the most work first, each to whoever has least so far; in order."""
    load, owner = [0.0] * processes, {}
    for i in sorted(range(len(batches)), key=lambda i: -_work(batches[i])):
        owner[i] = int(np.argmin(load))
        load[owner[i]] += _work(batches[i])
    return [batch for i, batch in enumerate(batches) if owner[i] == process]


def on_every_process(work: Callable[[], Any]) -> list[Any]:
    """What `work` returns on each process, as JSON can hold it, on all of them.

    Raises what it raised on this process; else ValueError with what it raised on another one.
    """
    if jax.process_count() == 1:
        return [work()]
    error, outcome = None, {}
    try:
        outcome["result"] = work()
    except Exception as raised:  # told to the other processes, which would wait for ever
        error, outcome["error"] = raised, f"{type(raised).__name__}: {raised}"
    outcomes = _gathered(outcome)
    if error is not None:
        raise error
    for process, outcome in enumerate(outcomes):
        if "error" in outcome:
            raise ValueError(f"evaluation failed on process {process}: {outcome['error']}")
    return [outcome["result"] for outcome in outcomes]


def _gathered(content: Any) -> list[Any]:
    """The contents of all processes, in their order."""
    text = np.frombuffer(json.dumps(content).encode(), np.uint8)
    sizes = np.ravel(multihost_utils.process_allgather(np.int32(len(text))))
    padded = np.pad(text, (0, sizes.max() - len(text)))
    rows = multihost_utils.process_allgather(padded)
    return [json.loads(row[:n].tobytes()) for row, n in zip(rows, sizes, strict=True)]


def _shape(video: Video) -> tuple:
    """What videos must share to go together.

    The frames with given masks, too: what a system does when objects come would otherwise depend on
    the other videos of the batch, such as the room it makes for reference frames.
    """
    given = tuple(np.flatnonzero(video.given.any(axis=1)).tolist())
    return video.original_size, bucket(len(video.ids)), given


def _work(batch: Sequence[Video]) -> int:
    height, width = batch[0].original_size
    return height * width * bucket(len(batch[0].ids)) * max(map(len, batch))


def require_metric(metric: str, protocol: str, reported: Sequence[str]) -> None:
    """Raises ValueError unless config.eval.metric is among the metrics that a protocol reports."""
    if metric not in reported:
        raise ValueError(
            f"config.eval.metric: protocol {protocol} reports {', '.join(reported)}, found"
            f" {metric!r}"
        )
