"""The commands `train`, `scaling` and `sweep` of the benchmark: options, table, JSON, plot."""

import argparse
import json
from typing import Any

import jax

from vos_jax.benchmarks.plot import draw
from vos_jax.benchmarks.scaling import scaling_panels, scaling_report, scaling_table
from vos_jax.benchmarks.sweep import sweep_panels, sweep_report, sweep_table
from vos_jax.benchmarks.training import PRESETS, REMAT, Step, measure_step, step_config, use_devices
from vos_jax.files import write_whole
from vos_jax.metrics.text_table import format_table
from vos_jax.ops.platforms import PRECISIONS
from vos_jax.systems.table import systems_of


def add_commands(stages: Any) -> None:
    """Adds the commands to the subparsers of the benchmark."""
    train = stages.add_parser("train", help="training steps of a system")
    _add_system(train)
    train.add_argument("--devices", type=int, default=1, help="how many (default: 1)")
    train.add_argument("--fsdp", type=int, default=1, help="of these along the axis fsdp")
    train.add_argument("--batch", type=int, default=0, help="on all devices (default: preset's)")
    train.add_argument("--dtype", choices=("float32", "bfloat16"), default="", help="of the model")
    precision = "model.precision (default: the preset's)"
    train.add_argument("--precision", choices=PRECISIONS, default="", help=precision)
    train.add_argument("--remat", choices=REMAT, default="none", help="config.train.remat")
    train.add_argument("--rounds", type=int, default=10, help="timed steps (default: 10)")
    train.add_argument("--json", metavar="FILE", help="write the figures there, too")

    scaling = stages.add_parser("scaling", help="a training step on several meshes")
    _add_system(scaling)
    scaling.add_argument("--devices", type=_numbers, default=(1, 2, 4, 8), help="1,2,4,8")
    scaling.add_argument("--fsdp", type=_numbers, default=(1,), help="sizes of that axis, 1,2,4")
    scaling.add_argument("--batch", type=int, default=1, help="clips of each device (default: 1)")
    scaling.add_argument("--rounds", type=int, default=10, help="timed steps of a mesh")
    _add_files(scaling)

    sweep = stages.add_parser("sweep", help="scores of several runs against what differs")
    sweep.add_argument("runs", nargs="+", metavar="WORKDIR")
    sweep.add_argument("--knob", default="", help="field of the config (default: what differs)")
    sweep.add_argument("--measure", default="", help="loss, or a score (default: the best's)")
    _add_files(sweep)


def _add_system(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("system", choices=sorted(systems_of("vos")))
    parser.add_argument("--preset", choices=PRESETS, default="quick", help="(default: quick)")


def _add_files(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", metavar="FILE", help="write the figures there, too")
    parser.add_argument("--plot", metavar="FILE.png", help="draw them")


def _numbers(text: str) -> tuple[int, ...]:
    try:
        numbers = tuple(int(part) for part in text.split(","))
    except ValueError:
        numbers = (0,)
    if min(numbers) < 1:
        raise argparse.ArgumentTypeError(f"expected numbers from 1 such as 1,2,4, found {text!r}")
    return numbers


def run_train(options: argparse.Namespace) -> None:
    """One step of one system on one mesh."""
    devices = use_devices(options.devices)
    config = step_config(
        options.system,
        options.preset,
        batch=options.batch,
        dtype=options.dtype,
        remat=options.remat,
        precision=options.precision,
    )
    if options.devices % options.fsdp:
        raise ValueError(f"--fsdp: expected a divisor of {options.devices}, found {options.fsdp}")
    config.mesh.update({"data": options.devices // options.fsdp, "fsdp": options.fsdp})
    what = {
        "system": options.system,
        "preset": options.preset,
        "device_kind": devices[0].device_kind,
        "jax": jax.__version__,
        "data": config.mesh.data,
        "fsdp": config.mesh.fsdp,
        "batch": config.train.batch,
        "dtype": config.model.dtype,
        "precision": config.model.get("precision", ""),
        "remat": options.remat,
    }
    found = measure_step(Step.of(config, devices), options.rounds)
    print(", ".join(f"{name} {value}" for name, value in what.items()))
    print(format_table([("one step", ""), *_rows(found)]))
    _write(options, what | found)


def run_scaling(options: argparse.Namespace) -> None:
    """A step on every mesh of the options."""
    devices = use_devices(max(options.devices))
    report = scaling_report(
        options.system,
        options.preset,
        devices,
        options.devices,
        options.fsdp,
        options.batch,
        options.rounds,
    )
    kind = report["device_kind"]
    print(f"{kind}, {options.system} {options.preset}, {options.batch} clips for each device")
    print(scaling_table(report))
    _write(options, report)
    if options.plot:
        draw(options.plot, scaling_panels(report))


def run_sweep(options: argparse.Namespace) -> None:
    """What the runs of a sweep came to."""
    report = sweep_report(options.runs, options.knob, options.measure)
    print(sweep_table(report))
    _write(options, report)
    if options.plot:
        draw(options.plot, sweep_panels(report))


COMMANDS = {"train": run_train, "scaling": run_scaling, "sweep": run_sweep}


def _rows(found: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Figures as rows; those within a figure follow it, lists are left to the JSON."""
    rows = []
    for name, value in found.items():
        name = f"{prefix}{name.replace('_', ' ')}"
        if isinstance(value, dict):
            rows += _rows(value, f"{name}, ")
        elif not isinstance(value, list):
            rows.append((name, f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"))
    return rows


def _write(options: argparse.Namespace, report: dict[str, Any]) -> None:
    if options.json:
        write_whole(options.json, (json.dumps(report, indent=2) + "\n").encode())
