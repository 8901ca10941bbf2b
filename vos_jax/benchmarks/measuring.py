"""How a benchmark measures: cases, compiled and run in turn, and resident memory."""

import ctypes
import gc
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax

from vos_jax.metrics.text_table import format_table
from vos_jax.notes import progress_bar


@dataclass(frozen=True)
class Case:
    """One row: a function, its arguments (made when needed), and the row it is compared with.

    at_most: what its ratio to `baseline` should not exceed, shown beside it. host: the function is
    not jax code and runs as it is.
    """

    name: str
    function: Callable[..., Any]
    arguments: Callable[[], tuple]
    baseline: str | None = None
    at_most: float | None = None
    host: bool = False


@dataclass
class Measurement:
    """Seconds to compile, seconds of each round, bytes of extra memory."""

    compile: float
    rounds: list[float]
    temp: int
    peak: int | None = None

    @property
    def median(self) -> float:
        return statistics.median(self.rounds)


def measure(cases: Sequence[Case], rounds: int) -> dict[str, Measurement]:
    """Compile every case, then run all of them `rounds` times in turn."""
    compiled, results = {}, {}
    for case in progress_bar(cases, desc="compile", unit="case"):
        arguments = case.arguments()
        if case.host:
            compiled[case.name] = case.function, arguments
            results[case.name] = Measurement(0.0, [], 0)
            case.function(*arguments)
            continue
        start = time.perf_counter()
        program = jax.jit(case.function).lower(*arguments).compile()
        seconds = time.perf_counter() - start
        memory = program.memory_analysis()
        temp = int(memory.temp_size_in_bytes) if memory else 0
        results[case.name] = Measurement(seconds, [], temp)
        compiled[case.name] = program, arguments
        jax.block_until_ready(program(*arguments))
    for _ in progress_bar(range(rounds), desc="measure", unit="round"):
        for name, (program, arguments) in compiled.items():
            start = time.perf_counter()
            jax.block_until_ready(program(*arguments))
            results[name].rounds.append(time.perf_counter() - start)
    return results


def resident_growth(case: Case) -> int:
    """Bytes by which running a compiled case raises this process's resident set (Linux)."""
    arguments = jax.block_until_ready(case.arguments())
    program = case.function
    if not case.host:
        program = jax.jit(case.function).lower(*arguments).compile()
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # forget the peak of the compilation
    before = _status("VmRSS")
    jax.block_until_ready(program(*arguments))
    return max(_status("VmHWM") - before, 0)


def hand_back_large_blocks() -> None:
    """From now on a block of a megabyte goes back to the system as soon as it is freed (glibc).

    By default every thread's heap keeps some, and resident memory goes up and down by whole
    working buffers from one frame to the next.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if _linux() else None
    if mallopt is not None:
        mallopt(-3, 1 << 20)  # M_MMAP_THRESHOLD


def resident_in_use() -> int | None:
    """Bytes of resident memory that this process holds on to; None where /proc does not tell.

    Garbage is collected and the heap's free pages are handed back first, so memory that is free
    but kept for later does not count; only anonymous pages count, so library code that is read for
    the first time does not either. What remains above the live objects is fragmentation.
    """
    if not _linux():
        return None
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of glibc
    if trim is not None:
        trim(0)
    return _status("RssAnon")


def _linux() -> bool:
    return sys.platform.startswith("linux")


def _status(field: str) -> int:
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(field))


def case_table(cases: Sequence[Case], results: dict[str, Measurement]) -> str:
    """The report on cases, one line for each."""
    rows = [
        ("work", "compile s", "run ms", "ratio", "at most", "compared with", "temp MB", "peak MB")
    ]
    for case in cases:
        result = results[case.name]
        other = results.get(case.baseline)
        bounded = other and case.at_most is not None
        rows.append(
            (
                case.name,
                f"{result.compile:.2f}",
                f"{1e3 * result.median:.1f}",
                f"{result.median / other.median:.2f}" if other else "",
                f"{case.at_most:.2f}" if bounded else "",
                case.baseline if other else "",
                f"{result.temp / 1e6:.1f}",
                "" if result.peak is None else f"{result.peak / 1e6:.1f}",
            )
        )
    return format_table(rows, left=(0, 5))


def figures(results: dict[str, Measurement]) -> dict[str, dict[str, Any]]:
    """Of every case, by its name, what a file keeps of it."""
    return {
        name: {
            "compile_s": result.compile,
            "run_ms": 1e3 * result.median,
            "each_ms": [1e3 * seconds for seconds in result.rounds],
            "temp_bytes": result.temp,
            "peak_bytes": result.peak,
        }
        for name, result in results.items()
    }


def ratio_table(before: dict[str, dict], now: dict[str, dict]) -> str:
    """Cases that both have: milliseconds then and now, and how many times as long it takes now."""
    rows = [("work", "then ms", "now ms", "ratio")]
    for name, found in now.items():
        if name in before:
            times = float(before[name]["run_ms"]), found["run_ms"]
            rows.append((name, *(f"{t:.1f}" for t in times), f"{times[1] / times[0]:.2f}"))
    return format_table(rows)
