"""Sizes and precision of the kernels: what GPUs and TPUs get, told from traced programs."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from tests.accelerator import accelerator_branches, lowered
from vos_jax.ops.matching import global_matching, local_matching
from vos_jax.ops.memory_read import memory_read
from vos_jax.ops.multi_local import multi_local_matching
from vos_jax.ops.platforms import BYTES, even_parts, make_plans, map_parts

H, W, C, LABELS, FRAMES = 120, 214, 100, 3, 22  # 480x854 at stride 4
WINDOWS = (2, 4, 6, 8, 10, 12)


def match_globally(query, other, labels, **options):
    flat = other.reshape(len(other), -1, other.shape[-1])
    return global_matching(query, flat, labels.reshape(len(labels), -1), LABELS, **options)


def read(query, keys, values, valid, **options):
    return memory_read(query, keys, values, valid, **options)


def shapes(kernel, batch, h=H, w=W, channels=C, frames=FRAMES):
    """Arguments of a kernel, frames of 480x854 unless told otherwise."""
    embedding = jax.ShapeDtypeStruct((batch, h, w, channels), jnp.float32)
    if kernel is not read:
        return embedding, embedding, jax.ShapeDtypeStruct((batch, h, w), jnp.int32)
    pixels = -(-h // 4) * -(-w // 4)
    query = jax.ShapeDtypeStruct((batch, pixels, channels), jnp.float32)
    bank = jax.ShapeDtypeStruct((batch, 2, frames, pixels, channels), jnp.float32)
    return query, bank, bank, jax.ShapeDtypeStruct((batch, 2, frames), bool)


KERNELS = {
    "global": match_globally,
    "local": partial(local_matching, num_labels=LABELS, window=15),
    "multi_local": partial(multi_local_matching, num_labels=LABELS, windows=WINDOWS),
    "read": read,
}
every_kernel = pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS)


def equations(jaxpr):
    """All of them, those inside others too."""
    for equation in jaxpr.eqns:
        yield equation
        for value in jax.tree.leaves(list(equation.params.values())):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from equations(inner)


def loops_and_products(kernel, batch, **options):
    """Lengths of loops, where they are known, and bytes of each product for each video."""
    with accelerator_branches():
        jaxpr = jax.make_jaxpr(partial(kernel, **options))(*shapes(kernel, batch)).jaxpr
    loops, products = [], []
    for equation in equations(jaxpr):
        if equation.primitive is lax.scan_p:
            loops.append(equation.params["length"])
        if equation.primitive is lax.dot_general_p:
            products.append(equation.outvars[0].aval.size // batch * 4)
    return loops, products


@every_kernel
def test_loops_and_products_of_a_video_are_the_same_in_any_global_batch(kernel):
    for kernel_bytes in (0, 2**24):
        one, *others = (
            loops_and_products(kernel, batch, kernel_bytes=kernel_bytes) for batch in (1, 8, 64)
        )
        assert one[1]
        assert others == [one, one]


@every_kernel
def test_the_largest_product_fills_the_bytes_and_no_more(kernel):
    for limit in (2**26, 2**27):
        largest = max(loops_and_products(kernel, 1, kernel_bytes=limit)[1])
        assert limit / 8 < largest <= limit  # beside it lie bands of pixels, and displacements
    assert max(loops_and_products(kernel, 1)[1]) <= BYTES["gpu"]


@pytest.mark.parametrize(("name", "trips"), [("global", 1), ("local", 2), ("multi_local", 3)])
def test_a_gpu_needs_few_trips_for_a_frame_of_480x854(name, trips):
    """Those of a known length; of the global search, over chunks of queries."""
    assert max(loops_and_products(KERNELS[name], 1)[0]) == trips


def test_a_gpu_reads_22_memory_frames_in_two_groups():
    pixels = 30 * 54
    assert max(loops_and_products(read, 1)[1]) == 11 * 2 * pixels**2 * 4


SMALL = dict(h=12, w=20, channels=6, frames=3)


def gradient(kernel, **options):
    """Of the kernel's sum, for its first two arguments."""
    return jax.jit(jax.grad(lambda *x: kernel(*x, **options).sum(), argnums=(0, 1)))


def dot_products(program):
    return [line for line in program.splitlines() if "stablehlo.dot_general" in line]


@every_kernel
def test_x3_is_three_products_on_gpu_and_tpu_also_in_the_backward_pass(kernel):
    for f in (jax.jit(partial(kernel, precision="x3")), gradient(kernel, precision="x3")):
        programs = lowered(f, *shapes(kernel, 1, **SMALL))
        for platform, kind in {"cuda": "tf32", "tpu": "bf16"}.items():
            products = dot_products(programs[platform])
            assert products
            for line in products:
                assert f"lhs_precision_type = {kind}" in line, line
                assert "num_primitive_operations = 3" in line, line


@every_kernel
@pytest.mark.parametrize("precision, marked", [("highest", True), ("default", False)])
def test_the_other_precisions_are_those_of_lax(kernel, precision, marked):
    f = gradient(kernel, precision=precision)
    for program in lowered(f, *shapes(kernel, 1, **SMALL)).values():
        products = dot_products(program)
        assert products and all(("HIGHEST" in line) == marked for line in products)


@every_kernel
def test_on_cpu_every_precision_gives_the_same_bits(kernel):
    rng = np.random.default_rng(0)
    arrays = [
        rng.integers(0, 2, x.shape).astype(x.dtype)
        if x.dtype != jnp.float32
        else rng.normal(size=x.shape).astype(np.float32)
        for x in shapes(kernel, 1, **SMALL)
    ]
    expected = kernel(*arrays)
    for precision in ("x3", "default"):
        np.testing.assert_array_equal(kernel(*arrays, precision=precision), expected)


def test_an_unknown_precision_is_refused_with_the_known_ones():
    query = jnp.zeros((1, 2, 2, 1))
    with pytest.raises(ValueError, match=r"precision: expected one of \('highest', 'x3', 'defa"):
        local_matching(query, query, jnp.zeros((1, 2, 2), int), 2, 1, precision="high")


def test_kernel_bytes_replace_the_sizes_of_every_platform():
    own = make_plans(7, lambda limit: limit // 2**20, 0, "highest", jnp.float32)
    assert [plan.size for plan in own] == [7, 256, 128]
    told = make_plans(7, lambda limit: limit // 2**20, 2**21, "highest", jnp.float32)
    assert [plan.size for plan in told] == [2, 2, 2] and len(set(told)) == 1


def test_inputs_of_16_bits_need_no_three_passes():
    plans = make_plans(1, lambda limit: 1, 0, "x3", jnp.bfloat16)
    assert {plan.precision for plan in plans} == {lax.Precision.HIGHEST}


@pytest.mark.parametrize("count, most", [(7, 1), (7, 3), (8, 3), (5, 9), (1, 1)])
def test_parts_hold_everything_once_in_order(count, most):
    number, size = even_parts(count, most)
    assert size <= most and (number - 1) * size < count <= number * size
    found = map_parts(lambda i: (i, 2 * i), count, most)
    np.testing.assert_array_equal(np.stack(found), [np.arange(count), 2 * np.arange(count)])
