"""What the log says about speed, for devices that are not here."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vos_jax.train.flops import Work
from vos_jax.train.throughput import Throughput, peak_flops, step_work


def mesh_of(kind, *peaks):
    devices = [
        SimpleNamespace(
            device_kind=kind,
            process_index=0,
            memory_stats=lambda peak=peak: peak and {"peak_bytes_in_use": peak},
        )
        for peak in peaks
    ]
    return SimpleNamespace(devices=np.array(devices), size=len(devices))


@pytest.mark.parametrize(
    ("kind", "dtype", "tera"),
    [
        ("TPU v5 lite", "float32", 197),
        ("TPU v5", "bfloat16", 459),
        ("TPU v4 lite", "bfloat16", None),
        ("NVIDIA H100 80GB HBM3", "bfloat16", 989.4),
        ("NVIDIA H100 80GB HBM3", "float32", 494.7),
        ("NVIDIA H100 PCIe", "bfloat16", 756),
        ("NVIDIA A100-SXM4-40GB", "bfloat16", 312),
        ("NVIDIA L40S", "bfloat16", None),
        ("NVIDIA H100 80GB HBM3", "float16", None),
        ("cpu", "float32", None),
    ],
)
def test_the_peak_is_that_of_the_device_and_dtype_or_none(kind, dtype, tera):
    expected = None if tera is None else pytest.approx(tera * 1e12)
    assert peak_flops(kind, dtype) == expected


def test_mfu_is_the_share_of_the_peak_of_all_devices_and_memory_that_of_the_fullest():
    mesh = mesh_of("TPU v4", 5, 7)
    found = Throughput(Work(55 * 10**12), 8, mesh, "bfloat16").scalars(2.0)
    assert found == {
        "examples_per_second": 16.0,
        "flops_per_step": 55 * 10**12,
        "flops_per_second": 110e12,
        "mfu": pytest.approx(0.2),
        "peak_memory_bytes": 7,
    }


def test_what_is_not_known_is_left_out():
    unknown = Throughput(None, 8, mesh_of("TPU v4", None), "float32")
    assert unknown.scalars(None) == {} and unknown.scalars(2.0) == {"examples_per_second": 16.0}
    before = Throughput(Work(10), 8, mesh_of("cpu", None), "float32")
    assert before.scalars(None) == {"flops_per_step": 10}


def test_counting_the_work_of_a_step_traces_it_for_the_run_too():
    traced = []

    @jax.jit
    def step(state, batch):
        traced.append(1)
        return state @ batch, {}

    arguments = jnp.ones((4, 4)), jnp.ones((4, 4))
    assert step_work(step, *arguments, "cpu") == Work(2 * 4**3)
    step(*arguments)
    assert len(traced) == 1
    assert step_work(lambda state, batch: state, *arguments, "cpu") is None
