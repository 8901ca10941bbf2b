"""Devices, meshes and shardings: data parallelism and fully sharded data parallelism (FSDP).

A mesh has the axes "data" and "fsdp". The batch is split over both; parameters, optimizer slots
and averages are split over "fsdp" on their largest dimension that it divides, and copied over
"data". jax.jit inserts the communication. Because the program sees global arrays, BatchNorm
statistics are those of the whole batch on any number of devices.

Axis types are Auto: with the Explicit default of recent JAX, gradients of Flax convolutions fail.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

AXES = ("data", "fsdp")


def build_mesh(config: Any, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Mesh ("data", "fsdp") of sizes config.data x config.fsdp; -1 means "the rest" (one of them).

    A single process may use fewer devices than it has. Raises ValueError with the numbers.
    """
    devices = list(jax.devices() if devices is None else devices)
    sizes = [config.data, config.fsdp]
    if sizes.count(-1) > 1 or any(size < 1 and size != -1 for size in sizes):
        raise ValueError(
            f"config.mesh.data={sizes[0]}, config.mesh.fsdp={sizes[1]}: sizes are 1 or more, "
            "and at most one may be -1 (the rest)"
        )
    total = len(devices)
    if -1 in sizes:
        rest = total // max(sizes)
        sizes[sizes.index(-1)] = max(rest, 1)
    needed = sizes[0] * sizes[1]
    whole = -1 in (config.data, config.fsdp) or jax.process_count() > 1
    if needed > total or (whole and needed != total):
        raise ValueError(
            f"config.mesh.data={config.data} x config.mesh.fsdp={config.fsdp} does not fit the "
            f"{total} devices; choose sizes whose product is {total}, such as data=-1, fsdp=1"
        )
    return jax.make_mesh(
        tuple(sizes), AXES, axis_types=(AxisType.Auto,) * 2, devices=devices[:needed]
    )


def devices_line(config: Any | None) -> str:
    """What a run has: "8 processes, 64 of 64 devices (gpu NVIDIA H100 80GB HBM3)".

    config: its section mesh, where it trains; None leaves out how many devices it uses.
    """
    devices, processes = jax.devices(), jax.process_count()
    used = len(devices) if config is None else build_mesh(config).size
    kind = " ".join(dict.fromkeys((devices[0].platform, devices[0].device_kind)))
    share = f"{len(devices)}" if config is None else f"{used} of {len(devices)}"
    line = f"{processes} process{'es' * (processes > 1)}, {share} devices ({kind})"
    if used < len(devices):
        line += (
            f"; config.mesh.data={config.data} x config.mesh.fsdp={config.fsdp} leaves"
            f" {len(devices) - used} unused, data=-1 takes them"
        )
    return line


def check_batch(batch: int, accumulate: int, mesh: Mesh) -> None:
    """Raises ValueError unless every device gets as many rows of every micro-batch."""
    if accumulate < 1 or batch < 1 or batch % accumulate:
        raise ValueError(
            f"config.train.batch={batch} cannot be cut into config.train.accumulate={accumulate} "
            "equal micro-batches; choose a divisor of the batch"
        )
    if (batch // accumulate) % mesh.size:
        unit = mesh.size * accumulate
        raise ValueError(
            f"config.train.batch={batch} in {accumulate} micro-batch(es) cannot be split over "
            f"{mesh.size} devices; use a multiple of {unit} such as {-(-batch // unit) * unit}, "
            "or fewer devices (config.mesh.data)"
        )


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The first axis of every batch entry over all devices."""
    return NamedSharding(mesh, PartitionSpec(AXES))


def state_sharding(state: Any, mesh: Mesh, min_size: int = 1024) -> Any:
    """A sharding for every leaf of a pytree of arrays or shapes.

    Leaves of at least min_size elements are split over "fsdp" on their largest dimension that
    the axis size divides (the last of equals); all others are copied.
    """
    fsdp = mesh.shape["fsdp"]

    def leaf_sharding(leaf):
        shape = leaf.shape
        fitting = [axis for axis, n in enumerate(shape) if n and n % fsdp == 0]
        if fsdp == 1 or int(np.prod(shape)) < min_size or not fitting:
            return NamedSharding(mesh, PartitionSpec())
        split = max(fitting, key=lambda axis: (shape[axis], axis))
        return NamedSharding(mesh, PartitionSpec(*[None] * split, "fsdp"))

    return jax.tree.map(leaf_sharding, state)


def place(tree: Any, sharding: Any) -> Any:
    """Copies host or single-device arrays, equal on every process, onto their shardings."""

    def put(leaf, target):
        host = np.asarray(leaf)
        return jax.make_array_from_callback(host.shape, target, lambda i: np.array(host[i]))

    return jax.tree.map(put, tree, sharding)


def fetch(tree: Any) -> Any:
    """Whole host copies of global arrays, on every process."""
    if jax.process_count() == 1:
        return jax.device_get(tree)
    return multihost_utils.process_allgather(tree, tiled=True)


def shard_batch(batch: dict[str, Any], mesh: Mesh) -> dict[str, jax.Array]:
    """This process's rows of a batch as global arrays; entries that are not numeric are dropped.

    batch: each numeric entry [rows, ...], the same number of rows on every process. Raises
    ValueError if the rows of all processes cannot be split evenly over the devices.
    """
    sharding = batch_sharding(mesh)
    arrays = {key: value for key, value in batch.items() if _is_numeric(value)}
    for key, value in arrays.items():
        if value.ndim == 0 or len(value) * jax.process_count() % mesh.size:
            rows = value.shape[0] if value.ndim else "no"
            raise ValueError(
                f"batch entry {key!r} has {rows} rows on each of {jax.process_count()} "
                f"process(es), which cannot be split over {mesh.size} devices; make "
                "config.train.batch a multiple of the devices, or set config.mesh.data"
            )
    return {
        key: jax.make_array_from_process_local_data(sharding, np.asarray(value))
        for key, value in arrays.items()
    }


def local_rows(rows: int, mesh: Mesh) -> list[int]:
    """Which rows of a global batch this process's devices hold, in order."""
    slices = batch_sharding(mesh).addressable_devices_indices_map((rows,)).values()
    return sorted({row for (part,) in slices for row in range(rows)[part]})


def _is_numeric(value: Any) -> bool:
    if not isinstance(value, np.ndarray | jax.Array):
        return False
    return jnp.issubdtype(value.dtype, jnp.number) or value.dtype == bool
