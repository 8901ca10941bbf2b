"""What a compiled program sends between devices, read in its HLO.

Sharding propagation does not depend on the platform, so fake devices show which arrays are sent;
how they are sent (merged, as reduce-scatter) is the choice of each platform's compiler.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import NamedTuple

KINDS = (
    "all-gather",
    "all-reduce",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
    "collective-broadcast",
)
_BYTES = {"pred": 1, "bf16": 2, "c64": 8, "c128": 16}  # others end in their bits
_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?[\w.-]+ = (.+?) ([a-z][\w-]*)\(")
_ARRAY = re.compile(r"\b([a-z]+\d*\w*)\[([\d,]*)\]")
_CALLED = re.compile(r"(?:calls|to_apply|body|condition|branch_computations)=(\{[^}]*\}|%?[\w.-]+)")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')


class Collective(NamedTuple):
    """One array that is sent.

    kind: of KINDS. shape: what a device holds afterwards. bytes: of that. times: how often a run of
    the program sends it; a loop of unknown length counts as one trip.
    """

    kind: str
    shape: tuple[int, ...]
    bytes: int
    times: int


class Traffic(NamedTuple):
    """Collectives of one kind in a run of a program: how many, and the bytes of their results."""

    count: int
    bytes: int


def collectives(hlo: str) -> list[Collective]:
    """All collectives of a program, `jax.jit(f).lower(x).compile().as_text()`.

    One that sends several arrays at once is listed once for each.
    """
    programs, entry = _computations(hlo)
    return list(_walk(programs, entry, 1))


def traffic(
    sent: Iterable[Collective], parameters: Iterable[tuple[int, ...]], parts: int = 1
) -> dict[str, dict[str, Traffic]]:
    """{"weights", "activations"} -> kind -> traffic.

    parameters: shapes of the parameters. Weights are the arrays with the dimensions of a parameter
    in any order, whole or cut into `parts` along one of them: parameters, their gradients and
    averages; also the rows of a kernel, which is how a CPU's program sums the gradients of
    depthwise convolutions. All others count as activations; of these, scalars and the losses of the
    batch are sent by every step. (A vector of the batch that is as long as a parameter counts as
    one.)
    """
    known = set()
    for shape in parameters:
        known.add(_dimensions(shape))
        known.update([_dimensions(shape[1:])] if len(shape) == 4 else [])
        for axis, size in enumerate(shape):
            if size % parts == 0:
                known.add(_dimensions((*shape[:axis], size // parts, *shape[axis + 1 :])))
    known.discard(())  # a scalar is a metric
    counts, sizes = Counter(), Counter()
    for one in sent:
        what = "weights" if _dimensions(one.shape) in known else "activations"
        counts[what, one.kind] += one.times
        sizes[what, one.kind] += one.times * one.bytes
    return {
        what: {
            kind: Traffic(counts[what, kind], sizes[what, kind])
            for kind in KINDS
            if counts[what, kind]
        }
        for what in ("weights", "activations")
    }


def _dimensions(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Transposing and adding dimensions of 1 change nothing about what an array is."""
    return tuple(sorted(n for n in shape if n != 1))


def _computations(hlo: str) -> tuple[dict[str, list[str]], str]:
    """Name -> lines of every computation, and the name of the first to run."""
    programs, entry, lines = {}, "", []
    for line in hlo.splitlines():
        begun = _COMPUTATION.match(line)
        if begun:
            lines = programs[begun[1]] = []
            entry = begun[1] if line.startswith("ENTRY") else entry
        else:
            lines.append(line)
    return programs, entry


def _walk(programs: dict[str, list[str]], name: str, times: int) -> Iterator[Collective]:
    for line in programs[name]:
        found = _INSTRUCTION.match(line)
        if found is None:
            continue
        result, operation = found.groups()
        kind = operation.removesuffix("-start")
        if kind in KINDS:
            yield from _sent(kind, result, operation.endswith("-start"), times)
            continue  # what a reduction applies sends nothing
        known = _TRIPS.search(line)
        trips = int(known[1]) if operation == "while" and known else 1
        for called in _CALLED.findall(line):
            for inner in re.findall(r"[\w.-]+", called):
                yield from _walk(programs, inner, times * trips)


def _sent(kind: str, result: str, begun: bool, times: int) -> Iterator[Collective]:
    arrays = _ARRAY.findall(result)
    if begun and kind == "collective-permute":
        arrays = arrays[1:2]  # the operand comes first, tokens last
    elif begun and kind != "all-reduce":
        arrays = arrays[len(arrays) // 2 :]  # operands come first
    for dtype, text in arrays:
        shape = tuple(int(n) for n in text.split(",") if n)
        yield Collective(kind, shape, math.prod(shape) * _bytes_of(dtype), times)


def _bytes_of(dtype: str) -> int:
    return _BYTES.get(dtype) or max(int(re.search(r"\d+", dtype)[0]) // 8, 1)
