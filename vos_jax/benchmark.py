"""Speed and memory of the parts of a system, next to the cost that no implementation can avoid.

    python -m vos_jax.benchmark kernels
    python -m vos_jax.benchmark matching
    python -m vos_jax.benchmark SYSTEM       (feelvos, stm, ...)
    python -m vos_jax.benchmark metrics
    python -m vos_jax.benchmark stream --system SYSTEM
    python -m vos_jax.benchmark data --config FILE|NAME[:PRESET]
    python -m vos_jax.benchmark train SYSTEM [--devices N --batch B --dtype bfloat16]
    python -m vos_jax.benchmark scaling SYSTEM [--devices 1,2,4,8 --fsdp 1,2,4]
    python -m vos_jax.benchmark sweep WORKDIR...

Every case is compiled first (metrics are host code and need none); then all cases run in turn,
round after round, so that a busy machine slows them all, and the table gives medians. The bare
matrix product (the distances' inner products, computed and dropped) is measured in the same rounds.
Extra memory is what a call needs beside its arguments: `temp` as XLA plans it and, with --peak, the
growth of the resident set of a fresh process that runs only this case (Linux). --json keeps the
figures; --against compares with those of an earlier run, case by case.

`stream` sends a long video through the streaming segmenter and looks at what could grow. `data`
makes training clips and has flags of its own (benchmarks/data.py). `train` takes training steps,
`scaling` compiles them for several meshes, and `sweep` fits what runs with different settings came
to (docs/scaling.md).

A stage is a function of the command's options that returns its cases: STAGES lists those of the
operations, every system of SYSTEMS is one, and vos_jax/benchmarks holds them.
"""

import argparse
import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax

from vos_jax.benchmarks import data, experiments
from vos_jax.benchmarks.instances import instance_cases
from vos_jax.benchmarks.kernels import kernel_cases
from vos_jax.benchmarks.matching import matching_cases
from vos_jax.benchmarks.measuring import (
    Case,
    case_table,
    figures,
    measure,
    ratio_table,
    resident_growth,
)
from vos_jax.benchmarks.metrics import metric_cases
from vos_jax.benchmarks.stream import SHORTEST, run_stream, stream_table
from vos_jax.benchmarks.systems import system_cases
from vos_jax.command_line import QUIET, ArgumentParser, ending_plainly
from vos_jax.files import write_whole
from vos_jax.notes import quiet
from vos_jax.ops.platforms import PRECISIONS
from vos_jax.systems.base import System
from vos_jax.systems.table import SYSTEMS, systems_of

STAGES: dict[str, Callable[[argparse.Namespace], list[Case]]] = {
    "kernels": kernel_cases,
    "matching": matching_cases,
    "metrics": metric_cases,
}
GRID_STAGES = ("kernels", "matching")
OF_TASK = {"vos": (system_cases, (480, 854)), "vis": (instance_cases, (360, 640))}
DTYPES = ("float32", "bfloat16")


def stages_by_name() -> dict[str, Callable[[argparse.Namespace], list[Case]]]:
    """The stages of the operations and, under its name, each system."""
    return {**STAGES, **{name: partial(_frame_cases, system) for name, system in SYSTEMS.items()}}


def _frame_cases(system: System, options: argparse.Namespace) -> list[Case]:
    """Those of a system's frame, with the options' dtype and precision."""
    wanted = {"dtype": options.dtype, "precision": options.precision}
    return OF_TASK[system.task][0](system, options, {k: v for k, v in wanted.items() if v})


def main(arguments: Sequence[str] | None = None) -> None:
    """The command: measure one stage and print its table."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if arguments[:1] == ["data"]:
        return data.main(arguments[1:])
    parser = ArgumentParser(
        prog="vos-jax benchmark",
        description=__doc__.split("\n")[0],
        epilog="example: vos-jax benchmark stream --system stm --frames 200",
    )
    stages = parser.add_subparsers(dest="stage", required=True, metavar="STAGE")
    for name in stages_by_name():
        _add_case_options(stages.add_parser(name, help=f"{name}, case by case"), name)
    _add_stream_options(stages.add_parser("stream", help="a long video, frame by frame"))
    stages.add_parser("data", help="training clips, by cores and processes")
    experiments.add_commands(stages)
    for command in stages.choices.values():
        command.add_argument("--quiet", action="store_true", help=QUIET)
    options = parser.parse_args(arguments)
    with ending_plainly(), quiet(options.quiet):
        _run(parser, options, arguments)


def _run(
    parser: argparse.ArgumentParser, options: argparse.Namespace, arguments: list[str]
) -> None:
    if options.stage in experiments.COMMANDS:
        try:
            experiments.COMMANDS[options.stage](options)
        except (ValueError, OSError) as error:
            parser.error(str(error))
    elif options.stage == "stream":
        _run_stream(parser, options)
    else:
        _run_cases(parser, options, arguments)


def _add_case_options(parser: argparse.ArgumentParser, stage: str) -> None:
    if stage in GRID_STAGES:
        grid = dict(nargs=2, default=(120, 214), metavar=("H", "W"))
        parser.add_argument("--grid", type=int, **grid, help="stride 4 (default: of 480x854)")
    if stage != "matching":
        task = SYSTEMS[stage].task if stage in SYSTEMS else "vos"
        _add_video_options(parser, OF_TASK[task][1])
    if stage in SYSTEMS:
        fields = {field.name for field in dataclasses.fields(SYSTEMS[stage].model)}
        for name, choices in (("dtype", DTYPES), ("precision", PRECISIONS)):
            if name in fields:
                meaning = f"model.{name} (default: {choices[0]})"
                parser.add_argument(f"--{name}", choices=choices, default="", help=meaning)
            else:
                parser.set_defaults(**{name: ""})
    parser.add_argument("--rounds", type=int, default=5, help="timed runs of every case")
    parser.add_argument("--only", default="", help="run only cases whose name contains this text")
    peak = "also run each case in a process of its own and report its peak"
    parser.add_argument("--peak", action="store_true", help=peak)
    parser.add_argument("--json", metavar="FILE", help="write the figures there, too")
    against = "what --json wrote in an earlier run: print how many times as long each case takes"
    parser.add_argument("--against", metavar="FILE", help=against)
    parser.add_argument("--peak-of", help=argparse.SUPPRESS)  # what those processes are asked


def _add_stream_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--system", choices=sorted(systems_of("vos")), required=True)
    parser.add_argument("--frames", type=int, default=2000, help="length of the video")
    _add_video_options(parser, (240, 427))
    capacity = "frames in a bounded memory (default: what the system's tiny model has)"
    parser.add_argument("--capacity", type=int, help=capacity)


def _add_video_options(parser: argparse.ArgumentParser, frame: tuple[int, int]) -> None:
    size = dict(nargs=2, default=frame, metavar=("H", "W"))
    default = "default: {}x{}".format(*frame)
    parser.add_argument("--frame", type=int, **size, help=f"size of the frame ({default})")
    parser.add_argument("--objects", type=int, default=2, help="number of objects (default: 2)")


def _run_cases(
    parser: argparse.ArgumentParser, options: argparse.Namespace, arguments: list[str]
) -> None:
    cases = stages_by_name()[options.stage](options)
    if options.peak_of:
        print(resident_growth(next(case for case in cases if case.name == options.peak_of)))
        return
    cases = [case for case in cases if options.only in case.name]
    if not cases:
        parser.error(f"no case of {options.stage} contains {options.only!r}")
    if options.peak and not sys.platform.startswith("linux"):
        parser.error("--peak reads /proc and works on Linux only; leave it out")
    before = _earlier(parser, options.against)
    results = measure(cases, options.rounds)
    if options.peak:
        for case in cases:
            results[case.name].peak = _peak_in_subprocess(arguments, case.name)
    what = f"{_platform(options)}, {_shapes(options)}, median of {options.rounds} rounds"
    print(what)
    print(case_table(cases, results))
    if before:
        print(f"against {options.against}: {before['what']}")
        print(ratio_table(before["cases"], figures(results)))
    if options.json:
        report = {"stage": options.stage, "what": what, "cases": figures(results)}
        write_whole(options.json, (json.dumps(report, indent=2) + "\n").encode())


def _earlier(parser: argparse.ArgumentParser, file: str | None) -> dict[str, Any] | None:
    """What --json wrote."""
    if file is None:
        return None
    expected = "expected a file that --json of an earlier run wrote"
    try:
        found = json.loads(Path(file).read_text())
        for case in found["cases"].values():
            float(case["run_ms"])
        return {"what": str(found["what"]), "cases": found["cases"]}
    except OSError as error:
        parser.error(f"--against {file}: {expected}: {error.strerror}")
    except (ValueError, KeyError, TypeError, AttributeError):
        parser.error(f"--against {file}: {expected}, found something else")


def _run_stream(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    if options.frames < SHORTEST:
        parser.error(f"--frames: expected at least {SHORTEST}, found {options.frames}")
    try:
        seen = run_stream(
            options.system, tuple(options.frame), options.frames, options.objects, options.capacity
        )
    except ValueError as error:
        parser.error(str(error))
    print(f"{_platform(options)}, {options.system}, {options.frames} frames, {_shapes(options)}")
    print(stream_table(seen))


def _platform(options: argparse.Namespace) -> str:
    device = jax.devices()[0]
    how = [getattr(options, "dtype", "") or DTYPES[0], getattr(options, "precision", "")]
    return f"{device.platform} ({device.device_kind}), jax {jax.__version__}, " + " ".join(
        word for word in how if word
    )


def _shapes(options: argparse.Namespace) -> str:
    if options.stage in GRID_STAGES:
        return f"grid {options.grid[0]}x{options.grid[1]}"
    if options.stage in systems_of("vis"):
        return f"frame {options.frame[0]}x{options.frame[1]}"
    return f"frame {options.frame[0]}x{options.frame[1]}, {options.objects} objects and background"


def _peak_in_subprocess(arguments: list[str], name: str) -> int:
    command = [sys.executable, "-m", "vos_jax.benchmark", *arguments, "--peak-of", name]
    run = subprocess.run(command, capture_output=True, text=True)
    if run.returncode:
        raise RuntimeError(f"measuring the peak of {name!r} failed:\n{run.stderr}")
    return int(run.stdout.split()[-1])


if __name__ == "__main__":
    main()
