"""Arithmetic of a traced function, counted in its jaxpr: nothing is compiled or run.

Counted are matrix products and convolutions, two operations a multiplication and addition; all else
of a network is small beside them. Loops count as often as they run, groups of a convolution and
the holes of a dilated one as what they are. (XLA's cost_analysis counts the body of a loop once,
and grouped convolutions as dense ones.)
"""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

from jax.extend.core import ClosedJaxpr, Jaxpr

_PLATFORMS = {"gpu": ("cuda", "rocm", "gpu")}  # what jaxprs call the platform of a device


class Work(NamedTuple):
    """What a function does.

    flops: floating-point operations of its matrix products and convolutions. trips: how often the
    body of a loop is run, over all loops. unknown: loops that end by their data; they count as one
    trip, so `flops` and `trips` are then lower bounds.
    """

    flops: int = 0
    trips: int = 0
    unknown: int = 0

    def plus(self, other: "Work") -> "Work":
        return Work(*(a + b for a, b in zip(self, other, strict=True)))

    def times(self, count: int) -> "Work":
        return Work(self.flops * count, self.trips * count, self.unknown)


def work_of(jaxpr: Jaxpr | ClosedJaxpr, platform: str) -> Work:
    """The work of a jaxpr on devices of a platform ("cpu", "gpu", "tpu").

    platform: chooses among the branches of lax.platform_dependent. Of any other branches the one
    with most operations counts. `jax.jit(f).trace(x).jaxpr` is the jaxpr of f.
    """
    work = Work()
    for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        work = work.plus(_work_of_equation(equation, platform))
    return work


def _work_of_equation(equation: Any, platform: str) -> Work:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        return Work(_product_flops(equation))
    if name == "conv_general_dilated":
        return Work(_convolution_flops(equation))
    if name == "scan":
        length = params["length"]
        return work_of(params["jaxpr"], platform).times(length).plus(Work(trips=length))
    if name == "while":
        parts = [work_of(params[part], platform) for part in ("cond_jaxpr", "body_jaxpr")]
        return parts[0].plus(parts[1]).plus(Work(trips=1, unknown=1))
    if name == "cond":
        branches = _branches_on(platform, params)
        return max((work_of(branch, platform) for branch in branches), key=lambda w: w.flops)
    work = Work()
    for inner in _inner(params):
        work = work.plus(work_of(inner, platform))
    if name == "shard_map":  # its jaxpr is one device's
        axes = params.get("newly_manual_axes", params.get("manual_axes"))  # by version of JAX
        work = work.times(math.prod(params["mesh"].shape[axis] for axis in axes))
    return work


def _branches_on(platform: str, params: dict[str, Any]) -> list[ClosedJaxpr]:
    """The branches of a conditional that devices of a platform may take."""
    branches, platforms = params["branches"], params.get("branches_platforms")
    if platforms is None:
        return list(branches)
    names = _PLATFORMS.get(platform, (platform,))
    for branch, own in zip(branches, platforms, strict=True):
        if own is None or any(name in own for name in names):
            return [branch]
    return list(branches)


def _inner(params: dict[str, Any]) -> Iterator[Jaxpr | ClosedJaxpr]:
    """The jaxprs within an equation: of jit, remat, custom derivatives and the like."""
    for value in params.values():
        for part in value if isinstance(value, tuple | list) else (value,):
            if isinstance(part, Jaxpr | ClosedJaxpr):
                yield part


def _product_flops(equation: Any) -> int:
    (contracted, _), _ = equation.params["dimension_numbers"]
    left = equation.invars[0].aval.shape
    return 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(left[i] for i in contracted)


def _convolution_flops(equation: Any) -> int:
    """Multiplications with padding and with the holes of a dilated input are none."""
    params, numbers = equation.params, equation.params["dimension_numbers"]
    image, kernel = (variable.aval.shape for variable in equation.invars)
    result = equation.outvars[0].aval.shape
    flops = 2 * result[numbers.out_spec[0]] * result[numbers.out_spec[1]]
    flops *= kernel[numbers.rhs_spec[1]]  # inputs of a group
    sides = zip(
        (image[i] for i in numbers.lhs_spec[2:]),
        (kernel[i] for i in numbers.rhs_spec[2:]),
        (result[i] for i in numbers.out_spec[2:]),
        params["padding"],
        params["window_strides"],
        params["lhs_dilation"],
        params["rhs_dilation"],
        strict=True,
    )
    return flops * math.prod(_taps(*side) for side in sides)


def _taps(
    size: int,
    kernel: int,
    result: int,
    padding: tuple[int, int],
    stride: int,
    dilation: int,
    rate: int,
) -> int:
    """Along one side: how many pairs of a result and an element of the kernel meet an input."""
    taps = 0
    for element in range(kernel):
        shift = element * rate - padding[0]
        places = range(shift, shift + result * stride, stride)
        taps += sum(0 <= x <= (size - 1) * dilation and x % dilation == 0 for x in places)
    return taps
