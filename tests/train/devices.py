"""Cases that need several devices; test_partition runs this file once with 8 fake ones.

Prints one JSON object: case -> measured value.
"""

import json
import shutil
import sys
from pathlib import Path

import jax
import numpy as np

from tests.train.toy import Toy, batches_of, build, objective_of, optim_config, run, toy_config
from vos_jax.train.checkpoint import Checkpoints
from vos_jax.train.partition import (
    build_mesh,
    check_batch,
    devices_line,
    local_rows,
    place,
    shard_batch,
)

ROWS = 16


def difference(a, b) -> float:
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return max(float(np.abs(np.asarray(x) - np.asarray(y)).max()) for x, y in pairs)


def trained(data, fsdp, steps=4, accumulate=1):
    config = toy_config(batch=ROWS, accumulate=accumulate)
    config.mesh.update({"data": data, "fsdp": fsdp})
    state, step, mesh = build(config)
    stream = batches_of(ROWS)(0)
    for _ in range(steps):
        state, metrics = step(state, shard_batch(next(stream), mesh))
    return state, jax.device_get(metrics), step, mesh


def main(folder: str) -> None:
    results = {"devices": len(jax.devices())}
    single, metrics, _, _ = trained(1, 1)
    for data, fsdp in ((8, 1), (2, 4), (1, 8)):
        state, other, step, mesh = trained(data, fsdp)
        results[f"{data}x{fsdp}"] = difference(single, state)
        results[f"losses {data}x{fsdp}"] = difference(metrics["losses"], other["losses"])
        results[f"compilations {data}x{fsdp}"] = step._cache_size()
    kernel = state.params["body"]["kernel"]
    slot = next(x for x in jax.tree.leaves(state.opt_state) if x.shape == kernel.shape)
    for name, leaf in {"parameter": kernel, "slot": slot}.items():
        results[f"{name} part"] = leaf.addressable_shards[0].data.size / leaf.size
    results["local rows"] = local_rows(ROWS, mesh)
    accumulated, *_ = trained(2, 2, accumulate=2)
    results["accumulated 4 = 1"] = difference(trained(1, 1, accumulate=2)[0], accumulated)

    with_save = Checkpoints(folder)
    with_save.save_last(state)
    with_save.close()
    saved = jax.device_get(state)
    for data, fsdp in ((1, 1), (2, 2), (8, 1)):
        config = toy_config(batch=ROWS)
        config.mesh.update({"data": data, "fsdp": fsdp})
        target, step, mesh = build(config)
        checkpoints = Checkpoints(folder)
        restored = checkpoints.restore(target)
        checkpoints.close()
        results[f"restored on {data}x{fsdp}"] = difference(saved, restored)
        same = jax.tree.map(lambda a, b: a.sharding == b.sharding, target, restored)
        results[f"shardings on {data}x{fsdp}"] = all(jax.tree.leaves(same))

    results["moved"] = moved(Path(folder))
    results["pmap"], results["gradient"] = by_pmap()
    results["lines"] = lines()
    results["errors"] = errors()
    print(json.dumps(results))


def moved(folder: Path) -> dict[str, list[float]]:
    """Mesh -> losses of the last steps of a run that was saved on 8 devices and goes on there."""
    config = toy_config(batch=ROWS, steps=3)
    config.log.every, config.eval.every = 1, 0
    config.mesh.update({"data": 8, "fsdp": 1})
    run(config, folder / "begun")
    config.train.steps, losses = 6, {}
    for data, fsdp in ((8, 1), (2, 1), (1, 1), (1, 2), (2, 4)):
        config.mesh.update({"data": data, "fsdp": fsdp})
        workdir = shutil.copytree(folder / "begun", folder / f"{data}x{fsdp}")
        run(config, workdir)
        lines = map(json.loads, (workdir / "logs/metrics.jsonl").read_text().splitlines())
        losses[f"{data}x{fsdp}"] = [line["loss"] for line in lines if line.get("step", 0) > 3]
    return losses


def by_pmap() -> tuple[float, float]:
    """How far jax.pmap's mean gradient is from that of the step on a mesh, and its largest value.

    Statistics are frozen: those of a batch would be of each device's rows in pmap.
    """
    config, model = toy_config(batch=ROWS, ema=0.0), Toy(live=False)
    plain = {"weight_decay": 0.0, "gradient_multipliers": (), "clip": "none", "momentum": 0.0}
    config.optim = optim_config(schedule="constant", learning_rate=1.0, **plain)
    config.mesh.update({"data": 8, "fsdp": 1})
    state, step, mesh = build(config, model)
    batch, before = next(batches_of(ROWS)(0)), jax.device_get(state.variables())

    def loss(params, rows):
        variables = {**before, "params": params}
        return objective_of(model)(variables, rows, 0, jax.random.key(0))[0].mean()

    def gradient(params, rows):
        return jax.lax.pmean(jax.grad(loss)(params, rows), "devices")

    rows = {key: batch[key].reshape(8, -1, *batch[key].shape[1:]) for key in ("x", "y")}
    mapped = jax.pmap(gradient, axis_name="devices", in_axes=(None, 0))(before["params"], rows)
    mapped = jax.tree.map(lambda g: np.asarray(g[0]), mapped)
    state, _ = step(state, shard_batch(batch, mesh))
    update = jax.tree.map(lambda a, b: a - np.asarray(b), before["params"], state.params)
    return difference(update, mapped), max(float(np.abs(g).max()) for g in jax.tree.leaves(mapped))


def lines() -> dict[str, str]:
    config = toy_config().mesh
    config.update({"data": -1, "fsdp": 1})
    some = config.copy_and_resolve_references()
    some.update({"data": 2, "fsdp": 2})
    return {
        "all": devices_line(config),
        "some": devices_line(some),
        "without a mesh": devices_line(None),
    }


def errors() -> dict[str, str]:
    def message(function):
        try:
            function()
        except ValueError as error:
            return str(error)
        return ""

    config = toy_config().mesh
    config.update({"data": -1, "fsdp": 1})
    mesh = build_mesh(config)
    uneven = config.copy_and_resolve_references()
    uneven.update({"data": -1, "fsdp": 3})
    large = config.copy_and_resolve_references()
    large.update({"data": 4, "fsdp": 4})
    return {
        "rest": "x".join(map(str, mesh.devices.shape)),
        "uneven mesh": message(lambda: build_mesh(uneven)),
        "large mesh": message(lambda: build_mesh(large)),
        "batch": message(lambda: check_batch(12, 1, mesh)),
        "accumulate": message(lambda: check_batch(8, 3, mesh)),
        "rows": message(lambda: shard_batch({"x": np.zeros([6, 2])}, mesh)),
        "placed": str(place(np.arange(3), mesh_copy(mesh)).sharding.is_fully_replicated),
    }


def mesh_copy(mesh):
    return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())


if __name__ == "__main__":
    main(sys.argv[1])
