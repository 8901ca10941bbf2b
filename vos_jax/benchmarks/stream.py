"""A long video through the streaming segmenter: does anything grow?

Fresh weights of the tiny model that the system's entry names, so that thousands of frames take
minutes; what could grow (compilations, time, memory) does not depend on their size. Textured
squares move over a textured background.
"""

import statistics
import time
from collections import Counter
from dataclasses import dataclass, field

import jax
import numpy as np

from vos_jax.benchmarks.measuring import hand_back_large_blocks, resident_in_use
from vos_jax.inference.streaming import VideoSegmenter
from vos_jax.metrics.text_table import format_table
from vos_jax.notes import progress_bar
from vos_jax.systems.build import build_model, init_variables
from vos_jax.systems.table import SYSTEMS

SETTLED = 50  # frames after which everything should stay as it is
EVERY = 10  # frames between two samples of memory
SHORTEST = 2 * SETTLED  # a stream of fewer frames says nothing


@dataclass
class Stream:
    """What was seen, frame by frame.

    seconds, cpu: of each frame, by the clock and of this process on all cores. compiled: frame ->
    names of the programs compiled while it was segmented. samples: (frame, bytes of the arrays
    alive on the device, bytes resident on the host or None).
    """

    seconds: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    compiled: dict[int, list[str]] = field(default_factory=dict)
    samples: list[tuple[int, int, int | None]] = field(default_factory=list)


def run_stream(
    system: str, size: tuple[int, int], frames: int, objects: int, capacity: int | None = None
) -> Stream:
    """Segment `frames` frames of height and width `size`; capacity: of a bounded memory (STM).

    Raises ValueError for a capacity where the system has none.
    """
    hand_back_large_blocks()
    bounds = {} if capacity is None else {"capacity": capacity}
    model = build_model({"name": system, **SYSTEMS[system].tiny, **bounds})
    variables = init_variables(model, jax.random.key(0))
    segmenter, seen = VideoSegmenter(model, variables), Stream()
    video, mask = _video(size, objects)
    first = None if model.traits.guidance == "none" else mask

    def note(event, _, fun_name="", **details):
        if event.endswith("backend_compile_duration"):
            seen.compiled.setdefault(len(seen.seconds), []).append(fun_name)

    jax.monitoring.register_event_duration_secs_listener(note)
    try:
        for t in progress_bar(range(frames), desc="stream", unit="frame"):
            frame = video(t)
            start = time.perf_counter(), time.process_time()
            segmenter.step(frame, first if t == 0 else None)
            end = time.perf_counter(), time.process_time()
            if t and t % EVERY == 0:
                alive = sum(x.nbytes for x in jax.live_arrays())
                seen.samples.append((t, alive, resident_in_use()))
            seen.seconds.append(end[0] - start[0])
            seen.cpu.append(end[1] - start[1])
    finally:
        jax.monitoring.unregister_event_duration_listener(note)
    return seen


def stream_table(seen: Stream) -> str:
    """Compilations, time and memory of a stream, and what they should not exceed."""
    rows = [("", "found", "at most"), *_compilation_rows(seen)]
    part = max((len(seen.seconds) - SETTLED) // 10, EVERY)
    first, last = slice(SETTLED, SETTLED + part), slice(len(seen.seconds) - part, None)
    for title, seconds in (("ms per frame", seen.seconds), ("ms of CPU per frame", seen.cpu)):
        early, late = (1e3 * statistics.median(seconds[x]) for x in (first, last))
        rows += [
            (f"{title}, frames {first.start}-{first.stop - 1}", f"{early:.1f}", ""),
            (f"{title}, frames {last.start}-{len(seconds) - 1}", f"{late:.1f}", ""),
            ("  ratio", f"{late / early:.2f}", "1.10"),
        ]
    settled = [x for x in seen.samples if x[0] >= SETTLED]
    frames = [x[0] for x in settled]
    arrays, resident = [x[1] / 1e6 for x in settled], [x[2] for x in settled]
    rows += _memory_rows("arrays on the device, MB", frames, arrays)
    if None not in resident:
        rows += _memory_rows("resident memory in use, MB", frames, [x / 1e6 for x in resident])
    return format_table(rows)


def _compilation_rows(seen):
    begun = Counter(name for t in (0, 1) for name in seen.compiled.get(t, ()))
    later = [name for t, names in seen.compiled.items() if t > 1 for name in names]
    rows = [(f"compilations of {name}, frames 0 and 1", f"{n}", "1") for name, n in begun.items()]
    return [*rows, ("compilations after frame 1", f"{len(later)}", "0")]


def _memory_rows(title, frames, found):
    """At the first and the last sample, and the slope of the least-squares line through all."""
    return [
        (f"{title}, frame {frames[0]}", f"{found[0]:.2f}", ""),
        (f"{title}, frame {frames[-1]}", f"{found[-1]:.2f}", ""),
        ("  slope, MB per frame", f"{slope(frames, found):.5f}", "0.01"),
    ]


def slope(x: list[float], y: list[float]) -> float:
    """Of the least-squares line through the points."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    x = x - x.mean()
    return float(np.sum(x * y) / np.sum(x * x))


def _video(size, objects):
    """A function that draws frame t, and the label map of frame 0."""
    height, width = size
    rng = np.random.default_rng(0)
    background = rng.integers(0, 256, (*size, 3)).astype(np.uint8)
    side = min(height, width // objects) // 2
    textures = rng.integers(0, 256, (objects, side, side, 3)).astype(np.uint8)

    def places(t):
        for k in range(objects):
            y = int((0.5 + 0.5 * np.sin(0.05 * t + k)) * (height - side))
            yield y, int((k + 0.5 + 0.2 * np.sin(0.03 * t)) * width / objects) - side // 2

    def draw(t):
        frame = background.copy()
        for texture, (y, x) in zip(textures, places(t), strict=True):
            frame[y : y + side, x : x + side] = texture[:, : width - x]
        return frame

    mask = np.zeros(size, np.uint8)
    for k, (y, x) in enumerate(places(0)):
        mask[y : y + side, x : x + side] = k + 1
    return draw, mask
