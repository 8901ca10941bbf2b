"""What a line of the training log says about speed and memory."""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh

from vos_jax.train.flops import Work, work_of

# FLOP/s of one device, without sparsity, in the dtype that its matrix units are given: TPUs
# multiply float32 as bfloat16 by default, NVIDIA's as TF32. Keys are jax.Device.device_kind; of
# NVIDIA's they are its beginning, and the longest that fits counts. Sources: Google's pages of each
# TPU, "peak compute per chip" (of v2 and v3 a device is half a chip), and NVIDIA's data sheets.
_TPU = {
    "TPU v2": 23e12,
    "TPU v3": 61.5e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5": 459e12,
    "TPU v6 lite": 918e12,
    "TPU v6e": 918e12,
}
_NVIDIA = {  # bfloat16; TF32 is half of it
    "NVIDIA A100": 312e12,
    "NVIDIA H100": 989.4e12,
    "NVIDIA H100 NVL": 835e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H200": 989.4e12,
    "NVIDIA L4": 121e12,
}
PEAKS = {
    "bfloat16": _TPU | _NVIDIA,
    "float32": _TPU | {kind: peak / 2 for kind, peak in _NVIDIA.items()},
}


def peak_flops(device_kind: str, dtype: str) -> float | None:
    """Peak FLOP/s of a device in matrix products of a dtype; None where it is not known."""
    known = PEAKS.get(dtype, {})
    fitting = [
        kind
        for kind in known
        if device_kind == kind
        or kind in _NVIDIA
        and device_kind.startswith((f"{kind} ", f"{kind}-"))
    ]
    return known[max(fitting, key=len)] if fitting else None


def step_work(train_step: Callable, state: Any, batch: dict, platform: str) -> Work | None:
    """The work of a whole step on all devices; None of a step that is no jitted function.

    Calling the step afterwards does not trace it anew, and nothing is compiled here.
    """
    trace = getattr(train_step, "trace", None)
    return None if trace is None else work_of(trace(state, batch).jaxpr, platform)


class Throughput:
    """Turns steps a second into what they mean on the devices of a run.

    work: of a step, None where it is not known. examples: of a step. dtype: config.model.dtype.
    """

    def __init__(self, work: Work | None, examples: int, mesh: Mesh, dtype: str):
        self.work, self._examples = work, examples
        device = mesh.devices.flat[0]
        peak = peak_flops(device.device_kind, dtype)
        self._peak = None if peak is None else peak * mesh.size
        self._devices = [d for d in mesh.devices.flat if d.process_index == jax.process_index()]

    def scalars(self, steps_per_second: float | None) -> dict[str, float]:
        """examples_per_second, flops_per_step, flops_per_second, mfu, peak_memory_bytes.

        mfu is the share of the devices' peak, and peak_memory_bytes the most that a device of this
        process has held so far. What is not known is left out.
        """
        values = {}
        flops = self.work.flops if self.work else 0
        if flops:
            values["flops_per_step"] = flops
        if steps_per_second:
            values["examples_per_second"] = steps_per_second * self._examples
            if flops:
                values["flops_per_second"] = steps_per_second * flops
            if flops and self._peak:
                values["mfu"] = steps_per_second * flops / self._peak
        memory = peak_memory(self._devices)
        return values if memory is None else values | {"peak_memory_bytes": memory}


def peak_memory(devices: list[jax.Device]) -> int | None:
    """Bytes that the fullest of these devices has held at most; None where they do not tell."""
    found = [(device.memory_stats() or {}).get("peak_bytes_in_use") for device in devices]
    return max((size for size in found if size is not None), default=None)
