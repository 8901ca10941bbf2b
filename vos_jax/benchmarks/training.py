"""One training step of a system: its work, memory and place on the devices, and its speed."""

import contextlib
import dataclasses
import os
import statistics
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from ml_collections import ConfigDict

from vos_jax.notes import progress_bar
from vos_jax.presets.common import system_config
from vos_jax.systems.build import build_model, variable_shapes
from vos_jax.systems.table import SYSTEMS
from vos_jax.train.flops import Work, work_of
from vos_jax.train.initial import initial_variables
from vos_jax.train.objective import make_objective
from vos_jax.train.optim import build_optimizer
from vos_jax.train.partition import (
    batch_sharding,
    build_mesh,
    check_batch,
    place,
    shard_batch,
    state_sharding,
)
from vos_jax.train.state import TrainState
from vos_jax.train.step import make_train_step
from vos_jax.train.throughput import Throughput

PRESETS = ("tiny", "quick", "paper")
REMAT = ("none", "blocks")
_DEVICE_FLAG = "xla_force_host_platform_device_count"


def use_devices(count: int) -> list[jax.Device]:
    """The first `count` devices; where there is only the CPU, as many fake ones.

    To be called before anything else uses JAX. Raises ValueError where there are fewer.
    """
    if _DEVICE_FLAG not in os.environ.get("XLA_FLAGS", ""):
        with contextlib.suppress(RuntimeError):  # JAX has begun, and keeps what it has
            jax.config.update("jax_num_cpu_devices", count)
    devices = jax.devices()
    if len(devices) < count:
        raise ValueError(
            f"--devices: expected at most {len(devices)}, as many as there are"
            f" ({devices[0].device_kind}), found {count}; on a CPU any number can be had in a"
            " process of its own: JAX_PLATFORMS=cpu python -m vos_jax.benchmark ..."
        )
    return devices[:count]


def step_config(
    system: str,
    preset: str,
    *,
    batch: int = 0,
    dtype: str = "",
    remat: str = "none",
    precision: str = "",
) -> ConfigDict:
    """The config of a step; "tiny" is quick with the system's tiny model and small crops.

    batch 0, dtype "" and precision "": those of the preset. Raises ValueError for a remat that
    cannot be had, and for a precision where the system has none to choose.
    """
    config = system_config(system, "quick" if preset == "tiny" else preset)
    if preset == "tiny":
        _shrink(config)
    config.train.batch = batch or config.train.batch
    config.model.dtype = dtype or config.model.dtype
    config.train.remat = remat
    if precision:
        if "precision" not in config.model:
            raise ValueError(
                f"--precision: {system} has no distances or reads that it would change"
            )
        config.model.precision = precision
    return config


def _shrink(config: ConfigDict) -> None:
    entry = SYSTEMS[config.model.name]
    with config.ignore_type():  # the name of a set of windows becomes the windows
        for field, value in entry.tiny.items():
            (config.inference if field in entry.inference else config.model)[field] = value
    config.data.crop = tuple(48 + side % 16 for side in config.data.crop)  # 16 n or 16 n + 1
    config.data.max_objects = min(config.data.max_objects, 2)
    config.optim.freeze = ()


@dataclasses.dataclass(frozen=True)
class Step:
    """A step on a mesh that is described and not made: no array exists yet.

    function: the jitted train step. state, batch: shapes with their shardings.
    """

    config: ConfigDict
    mesh: Mesh
    function: Any
    state: TrainState
    batch: dict[str, jax.ShapeDtypeStruct]

    @classmethod
    def of(cls, config: ConfigDict, devices: Sequence[jax.Device] | None = None) -> "Step":
        """The step that training by a config takes; see `train.setup.build_training`."""
        mesh = build_mesh(config.mesh, devices)
        check_batch(config.train.batch, config.train.accumulate, mesh)
        model = build_model(config.model, **config.train.model)
        variables = variable_shapes(model)
        tx, schedule = build_optimizer(config.optim, variables["params"])
        ema = config.train.ema
        state = jax.eval_shape(
            lambda v: TrainState.create(v, tx, config.seed, ema=ema > 0), variables
        )
        sharding = state_sharding(state, mesh)
        function = make_train_step(
            make_objective(model, config.train, config.loss),
            tx,
            mesh,
            sharding,
            schedule=schedule,
            accumulate=config.train.accumulate,
            ema_decay=ema,
            freeze=config.optim.freeze,
        )
        batch = {
            key: jax.ShapeDtypeStruct(
                (config.train.batch, *x.shape), x.dtype, sharding=batch_sharding(mesh)
            )
            for key, x in clip_shapes(config.data).items()
        }
        return cls(config, mesh, function, jax.tree.map(_placed, state, sharding), batch)

    def work(self, platform: str) -> Work:
        """What all devices do, were they of a platform."""
        return work_of(self.function.trace(self.state, self.batch).jaxpr, platform)

    def bytes_per_device(self) -> dict[str, int]:
        """Of parameters and of the optimizer, on each device."""
        return {
            "parameters": _bytes(self.state.params, sharded=True),
            "optimizer": _bytes(self.state.opt_state, sharded=True),
        }

    def whole_bytes(self) -> dict[str, int]:
        """The same, were there one device."""
        return {
            "parameters": _bytes(self.state.params),
            "optimizer": _bytes(self.state.opt_state),
        }

    def first_state(self) -> TrainState:
        """A fresh state on the devices."""
        config = self.config
        model = build_model(config.model, **config.train.model)
        variables = initial_variables(model, config.init, config.seed)
        tx, _ = build_optimizer(config.optim, variables["params"])
        state = TrainState.create(variables, tx, config.seed, ema=config.train.ema > 0)
        return place(state, jax.tree.map(lambda x: x.sharding, self.state))

    def random_batch(self) -> dict[str, jax.Array]:
        """Frames of noise; every slot has an object, of which each frame shows a noisy part."""
        rng, objects = np.random.default_rng(0), self.config.data.max_objects
        highest = {"frames": 256, "labels": objects + 1}
        batch = {
            key: rng.integers(0, highest.get(key, 1), x.shape).astype(x.dtype)
            for key, x in self.batch.items()
        }
        return shard_batch(batch | {"valid": np.ones_like(batch["valid"])}, self.mesh)


def memory_of(compiled: Any) -> dict[str, int]:
    """Bytes on each device as the compiler plans them; {} where it does not tell."""
    plan = compiled.memory_analysis()
    names = ("argument", "output", "alias", "temp")
    return {name: int(getattr(plan, f"{name}_size_in_bytes")) for name in names} if plan else {}


def measure_step(step: Step, rounds: int) -> dict[str, Any]:
    """Compiles a step, takes `rounds` of them after two that do not count, and says how it went.

    Memory, parameters and optimizer are bytes on each device. What is not known is left out.
    """
    state, batch = step.first_state(), step.random_batch()
    device = step.mesh.devices.flat[0]
    started = time.perf_counter()
    traced = step.function.trace(state, batch)
    work = work_of(traced.jaxpr, device.platform)
    compiled = traced.lower().compile()
    found = {"compile_seconds": time.perf_counter() - started}
    seconds = timed(compiled, state, batch, rounds)
    median = statistics.median(seconds)
    throughput = Throughput(work, step.config.train.batch, step.mesh, step.config.model.dtype)
    return {
        **found,
        "ms_per_step": 1e3 * median,
        "ms_of_each": [1e3 * s for s in seconds],
        **throughput.scalars(1 / median),
        "loops_of_unknown_length": work.unknown,
        "bytes_per_device": step.bytes_per_device(),
        "compiled_memory": memory_of(compiled),
    }


def timed(compiled: Any, state: TrainState, batch: dict, rounds: int) -> list[float]:
    """Seconds of each of `rounds` steps, one after the other, after two that do not count."""
    seconds = []
    for _ in progress_bar(range(rounds + 2), desc="measure", unit="step"):
        started = time.perf_counter()
        state, metrics = compiled(state, batch)
        jax.block_until_ready((state, metrics))
        seconds.append(time.perf_counter() - started)
    return seconds[2:]


def clip_shapes(data: ConfigDict) -> dict[str, jax.ShapeDtypeStruct]:
    """What data/pipeline.py makes of one example, without the batch axis."""
    clip, slots = (data.clip.frames, *data.crop), (data.max_objects,)
    return {
        "frames": jax.ShapeDtypeStruct((*clip, 3), jnp.float32),
        "labels": jax.ShapeDtypeStruct(clip, jnp.uint8),
        "valid": jax.ShapeDtypeStruct(slots, bool),
        "classes": jax.ShapeDtypeStruct(slots, jnp.int32),
        "source_index": jax.ShapeDtypeStruct(clip[:1], jnp.int32),
    }


def _placed(shape: Any, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=sharding)


def _bytes(tree: Any, sharded: bool = False) -> int:
    shapes = [
        (x.sharding.shard_shape(x.shape) if sharded else x.shape, x) for x in jax.tree.leaves(tree)
    ]
    return sum(int(np.prod(shape)) * x.dtype.itemsize for shape, x in shapes)
