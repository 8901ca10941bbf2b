"""How fast training clips are made: by one core, by threads, by worker processes.

    python -m vos_jax.benchmark data --config FILE|NAME[:PRESET] [--config.data.dir=DIR ...]

Parts are processor time of one thread, so that a busy machine changes them little; "augment" is all
that is neither decoding a frame nor a mask: choosing frames and objects, changing, copying. Threads
and processes are timed by the clock, through the batches that a train step would get, after a
first batch that starts them. What a run needs is its steps per second times its batch.
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any

import cv2
import numpy as np
from absl import flags
from ml_collections import ConfigDict

from vos_jax.command_line import flag, new_flags, parse_flags, run_command
from vos_jax.data.clip import Video
from vos_jax.data.pipeline import Examples, batches
from vos_jax.data.stages import STAGES, stage_examples
from vos_jax.metrics.text_table import format_table
from vos_jax.presets.checks import check_config


def main(arguments: Sequence[str]) -> None:
    """The command behind `python -m vos_jax.benchmark data`."""
    run_command(["vos_jax.benchmark data", *arguments], __doc__, _parse, _run)


def _parse(argv: Sequence[str]) -> flags.FlagValues:
    values = new_flags(argv)
    flag(values, "stage", STAGES[0], "which clips of the run", choices=STAGES)
    flag(values, "clips", 40, "clips of every measurement", at_least=1)
    flag(values, "workers", os.cpu_count(), "threads, and processes", at_least=1)
    parse_flags(values, argv, required=("config",))
    return values


def _run(args: flags.FlagValues) -> str:
    config = args.config
    check_config(config)
    examples = stage_examples(config, args.stage)
    spent = seconds_of_parts(examples, args.clips)
    rows = [("work", "ms/clip", "clips/s")]
    *parts, (name, whole) = spent.items()
    rows += [(part, f"{1e3 * seconds:.1f}", "") for part, seconds in parts]
    rows.append(_row(name, whole))
    for name, processes in (("threads", 0), ("processes", args.workers)):
        stream = batches(
            stage_examples(config, args.stage),
            0,
            config.train.batch,
            workers=args.workers,
            processes=processes,
            transport=config.data.transport,
        )
        rows.append(_row(f"{args.workers} {name}", seconds_of_clip(stream, args.clips)))
    return f"{_conditions(config, examples, args)}\n{format_table(rows)}"


def seconds_of_parts(examples: Examples, clips: int) -> dict[str, float]:
    """Processor time of a clip on one core, in seconds: of its parts, and of all of it."""
    spent = {"frames": 0.0, "masks": 0.0}
    examples.sources = [
        source._replace(videos=[_timed(video, spent) for video in source.videos])
        for source in examples.sources
    ]
    threads = cv2.getNumThreads()
    cv2.setNumThreads(0)
    try:
        examples.example(0)  # opens what is opened once
        spent.update(frames=0.0, masks=0.0)
        start = time.thread_time()
        for i in range(1, clips + 1):
            examples.example(i)
        whole = time.thread_time() - start
    finally:
        cv2.setNumThreads(threads)
    parts = {**spent, "augment": whole - sum(spent.values()), "one core": whole}
    return {name: seconds / clips for name, seconds in parts.items()}


def seconds_of_clip(stream: Iterator[dict[str, Any]], clips: int) -> float:
    """Seconds by the clock for each clip of a stream of batches, once it runs; it is closed."""
    size = len(next(stream)["name"])
    count = -(-clips // size)
    start = time.perf_counter()
    for _ in islice(stream, count):
        pass
    seconds = time.perf_counter() - start
    stream.close()
    return seconds / (count * size)


def _timed(video: Video, spent: dict[str, float]) -> Video:
    """The same video, which adds the time of its decoding to `spent`."""

    def timed(part: str, read: Callable[[int], np.ndarray]) -> Callable[[int], np.ndarray]:
        def reading(t: int) -> np.ndarray:
            start = time.thread_time()
            try:
                return read(t)
            finally:
                spent[part] += time.thread_time() - start

        return reading

    return Video(
        video.name,
        video.dataset,
        video.frame_names,
        video.mask_files,
        timed("frames", video.frame),
        timed("masks", video.mask),
        lambda: video.objects,
    )


def _row(name: str, seconds: float) -> tuple[str, str, str]:
    return name, f"{1e3 * seconds:.1f}", f"{1 / seconds:.1f}"


def _conditions(config: ConfigDict, examples: Examples, args: flags.FlagValues) -> str:
    crop = "x".join(map(str, examples.crop))
    return (
        f"{config.model.name}, {args.stage}: {args.clips} clips of {examples.frames} frames {crop},"
        f" {config.data.transport}, batch {config.train.batch}; {os.cpu_count()} cores"
    )
