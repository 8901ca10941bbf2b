"""A training step on meshes of several sizes: what is sent, held and, on real devices, gained."""

import statistics
from collections.abc import Sequence
from typing import Any

import jax

from vos_jax.benchmarks.collectives import collectives, traffic
from vos_jax.benchmarks.plot import Panel
from vos_jax.benchmarks.training import Step, memory_of, step_config, timed
from vos_jax.metrics.text_table import format_table
from vos_jax.notes import progress_bar

BATCHES = (1, 8, 64)  # global, of which the loops of a step should not depend


def scaling_report(
    system: str,
    preset: str,
    devices: Sequence[jax.Device],
    counts: Sequence[int],
    fsdp: Sequence[int],
    clips: int,
    rounds: int,
) -> dict[str, Any]:
    """Weak scaling: every mesh gets `clips` clips for each device.

    A mesh has one of `counts` devices, and one of `fsdp` along that axis if it divides them. Where
    the devices are a CPU's, which share its cores, nothing is run, and no speed is reported.
    """
    meshes = [(n, parts) for n in counts for parts in fsdp if n % parts == 0]
    if not meshes:
        raise ValueError(f"--fsdp: expected a divisor of one of --devices {counts}, found {fsdp}")
    real = devices[0].platform != "cpu"
    rows = []
    for count, parts in progress_bar(meshes, desc="compile", unit="mesh"):
        config = step_config(system, preset, batch=clips * count)
        config.mesh.update({"data": count // parts, "fsdp": parts})
        step = Step.of(config, devices[:count])
        rows.append(_mesh_report(step, rounds if real else 0))
    if real:
        alone = rows[0]["examples_per_second"] / rows[0]["devices"]
        for row in rows:
            row["efficiency"] = row["examples_per_second"] / row["devices"] / alone
    return {
        "system": system,
        "preset": preset,
        "device_kind": devices[0].device_kind,
        "clips_per_device": clips,
        "loop_trips": loop_trips(system, preset, devices[0]),
        "meshes": rows,
    }


def loop_trips(system: str, preset: str, device: jax.Device) -> dict[str, Any]:
    """Global batch -> trips of all loops of a step, as accelerators run it; nothing is compiled.

    loops_of_unknown_length: those that end by their data and count as one trip each time.
    """
    found = {}
    for batch in BATCHES:
        config = step_config(system, preset, batch=batch)
        config.mesh.update({"data": 1, "fsdp": 1})
        platform = "gpu" if device.platform == "cpu" else device.platform
        work = Step.of(config, [device]).work(platform)
        found[str(batch)] = work.trips
    return found | {"loops_of_unknown_length": work.unknown}


def _mesh_report(step: Step, rounds: int) -> dict[str, Any]:
    compiled = step.function.lower(step.state, step.batch).compile()
    parts, shapes = step.mesh.shape["fsdp"], [x.shape for x in jax.tree.leaves(step.state.params)]
    sent = traffic(collectives(compiled.as_text()), shapes, parts)
    report = {
        "devices": step.mesh.size,
        "data": step.mesh.shape["data"],
        "fsdp": parts,
        "batch": step.config.train.batch,
        "sent": {
            what: {kind: one._asdict() for kind, one in kinds.items()}
            for what, kinds in sent.items()
        },
        "bytes_per_device": step.bytes_per_device(),
        "compiled_memory": memory_of(compiled),
    }
    if rounds:
        seconds = timed(compiled, step.first_state(), step.random_batch(), rounds)
        report["examples_per_second"] = step.config.train.batch / statistics.median(seconds)
    return report


def sent_bytes(row: dict[str, Any], what: str) -> int:
    """Bytes of all collectives of "weights" or "activations" on a mesh."""
    return sum(one["bytes"] for one in row["sent"][what].values())


def scaling_table(report: dict[str, Any]) -> str:
    """One line for each mesh and, below, the trips of the loops."""
    speeds = "efficiency" in report["meshes"][0]
    header = ["data x fsdp", "batch", "weights sent MB", "activations sent MB"]
    header += ["params + opt MB", "temp MB"] + ["clips/s", "efficiency"] * speeds
    rows = [header]
    for row in report["meshes"]:
        sizes = [sent_bytes(row, what) for what in ("weights", "activations")]
        sizes += [sum(row["bytes_per_device"].values()), row["compiled_memory"].get("temp", 0)]
        cells = [f"{row['data']} x {row['fsdp']}", str(row["batch"])]
        cells += [f"{size / 1e6:.2f}" for size in sizes]
        if speeds:
            cells += [f"{row['examples_per_second']:.2f}", f"{row['efficiency']:.2f}"]
        rows.append(cells)

    def said(kinds):
        sizes = {kind: (one["count"], one["bytes"] / 1e6) for kind, one in kinds.items()}
        return ", ".join(f"{n} {kind} of {size:.2f} MB" for kind, (n, size) in sizes.items())

    kinds = [
        f"{row['data']} x {row['fsdp']}, {what}: {said(of)}"
        for row in report["meshes"]
        for what, of in row["sent"].items()
        if of
    ]
    trips = dict(report["loop_trips"])
    unknown = trips.pop("loops_of_unknown_length")
    loops = "trips of all loops at a global batch of "
    loops += ", ".join(f"{batch}: {count}" for batch, count in trips.items())
    if unknown:
        loops += f"; {unknown} loops end by their data and count as one trip"
    return "\n".join([format_table(rows), "", *kinds, "", loops])


def scaling_panels(report: dict[str, Any]) -> list[Panel]:
    """Bytes that a device sends and holds against the number of devices, a line for each fsdp."""
    panels = [
        ("sent in a step, weights", lambda row: sent_bytes(row, "weights") / 1e6, "MB"),
        ("sent in a step, activations", lambda row: sent_bytes(row, "activations") / 1e6, "MB"),
        (
            "parameters and optimizer of a device",
            lambda row: sum(row["bytes_per_device"].values()) / 1e6,
            "MB",
        ),
    ]
    if "efficiency" in report["meshes"][0]:
        panels.append(("training speed", lambda row: row["examples_per_second"], "clips/s"))
    else:
        temp = lambda row: row["compiled_memory"].get("temp", 0) / 1e6  # noqa: E731
        panels.append(("temporary memory of a device", temp, "MB"))
    fsdp = sorted({row["fsdp"] for row in report["meshes"]})
    return [
        Panel(
            title,
            "devices",
            unit,
            {
                f"fsdp={parts}": [
                    (row["devices"], value(row)) for row in report["meshes"] if row["fsdp"] == parts
                ]
                for parts in fsdp
            },
            log_x=True,
        )
        for title, value, unit in panels
    ]
