"""Speed and memory of the parts of a system, next to the cost that no implementation can avoid.

    python -m vos_jax.benchmark kernels
    python -m vos_jax.benchmark feelvos
    python -m vos_jax.benchmark stm
    python -m vos_jax.benchmark metrics

Every case is compiled first (metrics are host code and need none); then all cases run in turn,
round after round, so that a busy machine slows them all, and the table gives medians. The bare
matrix product (the distances' inner products, computed and dropped) is measured in the same rounds.
Extra memory is what a call needs beside its arguments: `temp` as XLA plans it and, with --peak, the
growth of the resident set of a fresh process that runs only this case (Linux).

A stage is a function of the command's options that returns its cases; STAGES lists them.
"""

import argparse
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import cv2
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from vos_jax.inference.rollout import advance
from vos_jax.metrics.frame import frame_scores, pair_scores
from vos_jax.metrics.temporal import pair_instability
from vos_jax.models import init_variables
from vos_jax.models.feelvos import FEELVOS
from vos_jax.models.protocol import one_hot
from vos_jax.models.stm import STM
from vos_jax.ops.convolution import conv_general_dilated
from vos_jax.ops.matching import global_matching, local_matching
from vos_jax.ops.memory_read import memory_read
from vos_jax.ops.resize import resize_bilinear

LAYOUT = ("NHWC", "HWIO", "NHWC")


@dataclass(frozen=True)
class Case:
    """One row: a function, its arguments (made when needed), and the row it is compared with.

    host: the function is not jax code and runs as it is.
    """

    name: str
    function: Callable[..., Any]
    arguments: Callable[[], tuple]
    baseline: str | None = None
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


def kernel_cases(options: argparse.Namespace) -> list[Case]:
    """Matching, convolution and resizing at the stride-4 grid of a 480x854 frame."""
    h, w = options.grid
    channels, features = 100, 256

    def images(*depths, height=h, width=w):
        rng = np.random.default_rng(0)
        shape = (1, height, width)
        return tuple(jnp.asarray(rng.uniform(0, 0.5, (*shape, d)), jnp.float32) for d in depths)

    def embeddings(num_labels):
        labels = np.random.default_rng(1).integers(0, num_labels, (1, h, w))
        return (*images(channels, channels), jnp.asarray(labels, jnp.int32))

    def match_all(query, reference, labels, num_labels):
        flat = reference.reshape(1, h * w, channels)
        return global_matching(query, flat, labels.reshape(1, h * w), num_labels)

    product = "matrix product"
    cases = [Case(product, bare_product, lambda: images(channels, channels))]
    for n in (1, 3, 10):
        cases.append(Case(
            f"global, {n} label{'s' * (n > 1)}", partial(match_all, num_labels=n),
            partial(embeddings, n), product,
        ))
    for n in (3, 10):
        cases.append(Case(
            f"local K=15, {n} labels", partial(local_matching, num_labels=n, window=15),
            partial(embeddings, n), product,
        ))
    for frames in (5, 10, 20):
        cases += _read_cases(frames, options, memory_read)
    return cases + _convolution_cases(images, features) + _resize_cases(images, features, h, w)


def _convolution_cases(images, features):
    def with_kernel(size, inputs):
        kernel = np.random.default_rng(2).normal(size=(size, size, inputs, features))
        return (*images(features), jnp.asarray(kernel, jnp.float32))

    cases = []
    for title, size, groups in (("depthwise 7x7", 7, features), ("1x1", 1, 1)):
        title = f"{title}, {features} channels"
        library = f"{title}, library"
        options = dict(
            window_strides=(1, 1), padding="SAME", dimension_numbers=LAYOUT,
            feature_group_count=groups,
        )
        arguments = partial(with_kernel, size, features // groups)
        cases += [
            Case(library, partial(lax.conv_general_dilated, **options), arguments),
            Case(title, partial(conv_general_dilated, **options), arguments, library),
        ]
    return cases


def _resize_cases(images, features, h, w):
    def logits():
        return (jnp.moveaxis(images(4)[0], -1, 1),)

    half = partial(images, features, height=(h + 1) // 2, width=(w + 1) // 2)
    quadruple = partial(resize_bilinear, size=(4 * h, 4 * w), axes=(2, 3))
    return [
        Case("upsample logits x4", quadruple, logits),
        Case(f"upsample {features} channels x2", partial(resize_bilinear, size=(h, w)), half),
    ]


def feelvos_cases(options: argparse.Namespace) -> list[Case]:
    """The stages of one frame of the full-size network with fresh weights, and the whole frame."""

    def segment(model, variables, memory, features):
        return model.apply(variables, memory, features, method=model.segment)

    whole, encode, started = _frame_cases(FEELVOS(), options)
    return [whole, encode, Case("match and segment", partial(segment, FEELVOS()), started, WHOLE)]


def stm_cases(options: argparse.Namespace) -> list[Case]:
    """The stages of one frame of the full-size network with 5 frames in memory."""
    model = STM(capacity=5)

    def full(variables, memory, features):
        bank = memory.bank.replace(
            known=jnp.ones_like(memory.bank.known),
            number=jnp.arange(1, 6)[None],
            written=jnp.array([5]),
        )
        return variables, memory.replace(bank=bank), features

    def remember(variables, features, masks):
        return model.apply(variables, features, masks, method=model._encode_masks)

    def decode(variables, features):
        shape = (1, options.objects, *features.value.shape[1:])
        read = jnp.broadcast_to(features.value[:, None], shape)
        arguments = (read, features.value, features.r3, features.r2)
        return model.apply(variables, *arguments, method=lambda m, *x: m.decoder(*x))

    whole, encode, started = _frame_cases(model, options, full)
    return [
        whole,
        encode,
        Case("memory encoder", remember, lambda: (*started()[::2], _masks(model, options)), WHOLE),
        *_read_cases(5, options, memory_read),
        Case("decoder", decode, lambda: started()[::2], WHOLE),
    ]


WHOLE = "whole frame"


def _masks(model, options):
    labels = np.random.default_rng(1).integers(0, options.objects + 1, (1, *options.frame))
    return one_hot(labels, options.objects)


def _frame_cases(model, options, prepare=lambda *started: started):
    """The whole frame, its encoding, and a function that gives variables, memory and features."""

    @cache
    def inputs():
        frame = np.random.default_rng(0).integers(0, 256, (*options.frame, 3)).astype(np.uint8)
        return init_variables(model, jax.random.key(0)), model.preprocess(frame)[None]

    def encode(variables, frames):
        return model.apply(variables, frames, method=model.encode)

    def start(variables, features, masks):
        valid = jnp.ones((1, options.objects), bool)
        return model.apply(variables, features, masks, valid, method=model.start)

    def frame(variables, memory, frames):
        features = encode(variables, frames)
        return model.apply(variables, memory, features, tuple(options.frame), method=advance)

    @cache
    def started():
        variables, frames = inputs()
        features = jax.jit(encode)(variables, frames)
        memory = jax.jit(start)(variables, features, _masks(model, options))
        return prepare(variables, memory, features)

    whole = Case(WHOLE, frame, lambda: (*started()[:2], inputs()[1]))
    return whole, Case("encode", encode, inputs, WHOLE), started


def _read_cases(frames, options, read):
    """A read from `frames` memory frames, next to its two matrix products alone."""
    pixels = math.prod(math.ceil(n / 16) for n in options.frame)

    def arguments():
        rng = np.random.default_rng(0)
        shapes = [(1, pixels, 128)] + [(1, options.objects, frames, pixels, c) for c in (128, 512)]
        return tuple(jnp.asarray(rng.normal(size=s) / 8, jnp.float32) for s in shapes)

    products = f"two matrix products, T={frames}"
    return [
        Case(products, bare_read, arguments),
        Case(f"memory read, T={frames}", read, arguments, products),
    ]


def metric_cases(options: argparse.Namespace) -> list[Case]:
    """Scoring one frame on one core: J and F by id, of all proposals, and T of a pair of masks."""
    cv2.setNumThreads(1)
    height, width = options.frame

    def labels(shift):
        """Objects side by side with wavy outlines, each about a quarter of the frame high."""
        y, x = np.mgrid[:height, :width]
        found = np.zeros((height, width), np.uint8)
        for k in range(options.objects):
            dy, dx = y - height / 2, x - shift - (k + 0.5) * width / options.objects
            waves = 1 + 0.2 * np.sin(6 * np.arctan2(dy, dx) + k)
            inside = np.hypot(dy / (0.3 * height), dx * 2.5 * options.objects / width) < waves
            found[inside] = k + 1
        return found

    ids = np.arange(1, options.objects + 1)
    by_id, proposals = "J and F of one frame", np.arange(1, 21)
    return [
        Case(by_id, partial(frame_scores, ids=ids), lambda: (labels(0), labels(5)), host=True),
        Case(
            "J and F of 20 proposals",
            partial(pair_scores, gt_ids=ids, pred_ids=proposals),
            lambda: (labels(0), labels(5)), by_id, host=True,
        ),
        Case(
            "T of one object, a pair of frames", pair_instability,
            lambda: (labels(0) == 1, labels(5) == 1), by_id, host=True,
        ),
    ]


def bare_product(query: jax.Array, reference: jax.Array) -> jax.Array:
    """All inner products of [1, h, w, C] and [1, h, w, C], 1024 references at a time, dropped."""
    channels = query.shape[-1]
    x, y = query.reshape(-1, channels), reference.reshape(-1, channels)
    block = min(1024, y.shape[0])

    def multiply(start):
        rows = lax.dynamic_slice_in_dim(y, start, block)
        d = lax.dot_general(rows, x, (((1,), (1,)), ((), ())), precision=lax.Precision.HIGHEST)
        return lax.optimization_barrier(d)[0, 0]  # else only this element would be computed

    return jnp.sum(lax.map(multiply, jnp.arange(0, y.shape[0], block)))


def bare_read(query: jax.Array, keys: jax.Array, values: jax.Array) -> jax.Array:
    """The two products of a memory read, frame by frame, without softmax."""

    def add_frame(t, total):
        product = partial(jnp.einsum, precision=lax.Precision.HIGHEST)
        return total + product(
            "bnpq,bnpd->bnqd", product("bnpc,bqc->bnpq", keys[:, :, t], query), values[:, :, t]
        )

    start = jnp.zeros((*keys.shape[:2], query.shape[1], values.shape[-1]))
    return lax.fori_loop(0, keys.shape[2], add_frame, start)


STAGES: dict[str, Callable[[argparse.Namespace], list[Case]]] = {
    "kernels": kernel_cases,
    "feelvos": feelvos_cases,
    "stm": stm_cases,
    "metrics": metric_cases,
}


def measure(cases: Sequence[Case], rounds: int) -> dict[str, Measurement]:
    """Compile every case, then run all of them `rounds` times in turn."""
    compiled, results = {}, {}
    for case in cases:
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
    for _ in range(rounds):
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


def _status(field: str) -> int:
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(field))


def table(cases: Sequence[Case], results: dict[str, Measurement]) -> str:
    """The report, one line per case."""
    rows = [("work", "compile s", "run ms", "ratio", "compared with", "temp MB", "peak MB")]
    for case in cases:
        result = results[case.name]
        other = results.get(case.baseline)
        rows.append((
            case.name, f"{result.compile:.2f}", f"{1e3 * result.median:.1f}",
            f"{result.median / other.median:.2f}" if other else "", case.baseline if other else "",
            f"{result.temp / 1e6:.1f}",
            "" if result.peak is None else f"{result.peak / 1e6:.1f}",
        ))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i in (0, 4) else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """The command: compile, measure and print the table of one stage."""
    parser = argparse.ArgumentParser(
        prog="python -m vos_jax.benchmark", description=__doc__.split("\n")[0]
    )
    parser.add_argument("stage", choices=sorted(STAGES))
    parser.add_argument("--grid", type=int, nargs=2, default=(120, 214), metavar=("H", "W"),
                        help="kernels: stride-4 grid (default: that of 480x854)")
    parser.add_argument("--frame", type=int, nargs=2, default=(480, 854), metavar=("H", "W"),
                        help="systems: size of the frame")
    parser.add_argument("--objects", type=int, default=2, help="systems: number of objects")
    parser.add_argument("--rounds", type=int, default=5, help="timed runs of every case")
    parser.add_argument("--only", default="", help="run only cases whose name contains this text")
    parser.add_argument("--peak", action="store_true",
                        help="also run each case in a process of its own and report its peak")
    parser.add_argument("--peak-of", help=argparse.SUPPRESS)  # what those processes are asked
    options = parser.parse_args(arguments)
    cases = STAGES[options.stage](options)
    if options.peak_of:
        print(resident_growth(next(case for case in cases if case.name == options.peak_of)))
        return
    cases = [case for case in cases if options.only in case.name]
    if not cases:
        parser.error(f"no case of {options.stage} contains {options.only!r}")
    if options.peak and not sys.platform.startswith("linux"):
        parser.error("--peak reads /proc and works on Linux only; leave it out")
    results = measure(cases, options.rounds)
    if options.peak:
        for case in cases:
            results[case.name].peak = _peak_in_subprocess(options, case.name)
    device = jax.devices()[0]
    print(f"{device.platform} ({device.device_kind}), jax {jax.__version__}, float32, "
          f"{_shapes(options)}, median of {options.rounds} rounds")
    print(table(cases, results))


def _shapes(options: argparse.Namespace) -> str:
    if options.stage == "kernels":
        return f"grid {options.grid[0]}x{options.grid[1]}"
    return f"frame {options.frame[0]}x{options.frame[1]}, {options.objects} objects and background"


def _peak_in_subprocess(options: argparse.Namespace, name: str) -> int:
    command = [sys.executable, "-m", "vos_jax.benchmark", options.stage, "--peak-of", name]
    command += ["--grid", *map(str, options.grid), "--frame", *map(str, options.frame)]
    command += ["--objects", str(options.objects)]
    run = subprocess.run(command, capture_output=True, text=True)
    if run.returncode:
        raise RuntimeError(f"measuring the peak of {name!r} failed:\n{run.stderr}")
    return int(run.stdout.split()[-1])


if __name__ == "__main__":
    main()
