"""Cases that need several devices; test_partition runs this file once with 8 fake ones.

Prints one JSON object: case -> measured value.
"""

import json
import sys

import jax
import numpy as np

from tests.train.toy import batches_of, build, toy_config
from vos_jax.train.checkpoint import Checkpoints
from vos_jax.train.partition import build_mesh, check_batch, local_rows, place, shard_batch

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

    results["errors"] = errors()
    print(json.dumps(results))


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
