"""What differs between platforms in a kernel: how much it takes at a time, and how exactly.

Matching and reading are products that never exist as a whole: a kernel takes part after part. On
CPU a part stays in the cache, and each kernel knows its size. An accelerator wants large parts, of
which there are few: as many bytes as `BYTES` says, for each video of the batch. A bound on the
whole batch would make loops longer the more devices there are, for its videos lie on all of them.
`kernel_bytes` says the bytes on every platform instead, and 0 leaves it to the platform; results do
not depend on it but for the order of sums.

Precision is "highest", float32 everywhere; "x3", three passes of TF32 on a GPU (NVIDIA, from Ampere
on) and of bfloat16 on a TPU, whose error is near that of float32; or "default", a single pass, with
which other neighbours may be the nearest. On CPU, and of inputs of 16 bits, all are the same.

The choice is made when the program is lowered for a platform and costs nothing at run time.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

BYTES = {"gpu": 256 * 2**20, "tpu": 128 * 2**20}
PRECISIONS = ("highest", "x3", "default")
_X3 = {
    "gpu": lax.DotAlgorithmPreset.TF32_TF32_F32_X3,
    "tpu": lax.DotAlgorithmPreset.BF16_BF16_F32_X3,
}


class Plan(NamedTuple):
    """How a kernel runs on one platform: what it takes at a time, and lax's precision."""

    size: Any
    precision: lax.PrecisionLike


class Plans(NamedTuple):
    """The plan for each platform; hashable."""

    cpu: Plan
    gpu: Plan
    tpu: Plan


def make_plans(
    cpu: Any, fitting: Callable[[int], Any], kernel_bytes: int, precision: str, dtype: Any
) -> Plans:
    """How a kernel runs.

    Args:
        cpu: what it takes at a time there.
        fitting: what it takes at a time where it may fill so many bytes for each video.
        kernel_bytes: the bytes on every platform; 0: each platform's own.
        precision: one of PRECISIONS, of products of inputs of `dtype`.

    Raises:
        ValueError: another precision.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision: expected one of {PRECISIONS}, found {precision!r}")

    def plan(platform):
        if platform == "cpu" and not kernel_bytes:
            size = cpu
        else:
            size = fitting(kernel_bytes or BYTES[platform])
        return Plan(size, _lax_precision(precision, platform, dtype))

    return Plans(*map(plan, Plans._fields))


def run(kernel: Callable[..., Any], plans: Plans, *arrays: jax.Array) -> Any:
    """kernel(*arrays, plan) with the plan for the platform that the program is lowered for."""
    if len(set(plans)) == 1:
        return kernel(*arrays, plan=plans.cpu)
    cpu, gpu, tpu = (partial(kernel, plan=plan) for plan in plans)
    return lax.platform_dependent(*arrays, cpu=cpu, tpu=tpu, default=gpu)


def even_parts(whole: int, most: int) -> tuple[int, int]:
    """(number, size) of the fewest parts of one size, at most `most` large, that hold `whole`."""
    number = -(-whole // max(most, 1))
    return number, -(-whole // number)


def map_parts(f: Callable[[jax.Array], Any], count: int, size: int) -> Any:
    """f(0), ..., f(count - 1), stacked; `size` of them at a time, at most."""
    number, size = even_parts(count, size)
    if size == 1:
        return lax.map(f, jnp.arange(count))
    order = jnp.minimum(jnp.arange(number * size), count - 1)  # the last again: one loop for all
    found = lax.map(jax.vmap(f), order.reshape(number, size))
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:count], found)


def _lax_precision(precision, platform, dtype):
    if precision == "default":
        return lax.Precision.DEFAULT
    exact = platform == "cpu" or dtype != jnp.float32
    return lax.Precision.HIGHEST if precision == "highest" or exact else _X3[platform]
