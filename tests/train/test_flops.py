"""Operations counted by hand, and by XLA where it counts right."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax
from jax.sharding import AbstractMesh, PartitionSpec

from vos_jax.train.flops import Work, work_of

LAYOUT = ("NHWC", "HWIO", "NHWC")
SQUARE = jnp.ones((4, 4))
PRODUCT = 2 * 4**3  # operations of SQUARE @ SQUARE


def work(function, *arguments, platform="cpu"):
    return work_of(jax.jit(function).trace(*arguments).jaxpr, platform)


def multiply(x):
    return x @ x


def convolve(image, kernel, stride=1, groups=1, rate=1):
    return lax.conv_general_dilated(
        image,
        kernel,
        (stride, stride),
        "SAME",
        dimension_numbers=LAYOUT,
        feature_group_count=groups,
        rhs_dilation=(rate, rate),
    )


@pytest.mark.parametrize(
    ("equation", "shapes", "expected"),
    [
        ("ij,jk->ik", ((3, 5), (5, 7)), 2 * 3 * 5 * 7),
        ("bij,bkj->bik", ((2, 3, 5), (2, 7, 5)), 2 * 2 * 3 * 5 * 7),
        ("ijk,ijk->", ((2, 3, 5), (2, 3, 5)), 2 * 2 * 3 * 5),
    ],
)
def test_a_product_counts_two_operations_for_each_multiplication(equation, shapes, expected):
    arrays = [jnp.ones(shape) for shape in shapes]
    assert work(lambda *x: jnp.einsum(equation, *x), *arrays) == Work(expected)


@pytest.mark.parametrize(
    ("stride", "rate", "groups"), [(1, 1, 1), (2, 1, 1), (1, 3, 1), (1, 1, 4), (2, 1, 2)]
)
def test_a_convolution_counts_its_own_inputs_and_no_padding(stride, rate, groups):
    image, kernel = jnp.ones((2, 9, 12, 4)), jnp.ones((3, 3, 4 // groups, 8))
    found = work(lambda x, w: convolve(x, w, stride, groups, rate), image, kernel).flops
    # Ones in, and every product of the sum adds one: the result is the number of multiplications.
    assert found == 2 * float(convolve(image, kernel, stride, groups, rate).sum())


def test_a_dense_convolution_counts_as_in_xla():
    image, kernel = jnp.ones((2, 9, 12, 4)), jnp.ones((3, 3, 4, 8))
    compiled = jax.jit(lambda x, w: convolve(x, w, 2)).lower(image, kernel).compile()
    cost = compiled.cost_analysis()
    assert work(lambda x, w: convolve(x, w, 2), image, kernel).flops == cost["flops"]


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("stride", [1, 2])
def test_each_gradient_of_a_convolution_costs_what_the_convolution_costs(stride, groups):
    image, kernel = jnp.ones((2, 9, 12, 4)), jnp.ones((3, 3, 4 // groups, 8))

    def loss(x, w):
        return convolve(x, w, stride, groups).sum() ** 2

    forward = work(loss, image, kernel).flops
    assert work(jax.grad(loss, argnums=(0, 1)), image, kernel).flops == 3 * forward


def test_loops_count_as_often_as_they_run():
    def nested(x):
        once = lambda _, a: lax.fori_loop(0, 5, lambda _, b: b @ b, a)  # noqa: E731
        return lax.fori_loop(0, 3, once, x @ x)

    assert work(nested, SQUARE) == Work(16 * PRODUCT, trips=3 + 15)


def test_a_loop_that_ends_by_its_data_counts_once_and_is_told():
    def loop(x, n):
        return lax.fori_loop(0, n, lambda _, a: a @ a, x)

    assert work(loop, SQUARE, 3) == Work(PRODUCT, trips=1, unknown=1)


def test_of_branches_the_costliest_counts_and_of_platforms_the_given_one():
    def branch(x):
        return lax.cond(x[0, 0] > 0, multiply, lambda x: x, x)

    def by_platform(x):
        return lax.platform_dependent(
            x, cpu=multiply, cuda=lambda x: x, default=lambda x: x @ x @ x
        )

    assert work(branch, SQUARE).flops == PRODUCT
    found = [work(by_platform, SQUARE, platform=name).flops for name in ("cpu", "gpu", "tpu")]
    assert found == [PRODUCT, 0, 2 * PRODUCT]


def test_recomputation_counts_and_custom_derivatives_are_looked_into():
    def deep(x):
        return (jnp.sin(x @ SQUARE) @ SQUARE).sum()

    @jax.custom_vjp
    def own(x):
        return x @ x

    own.defvjp(lambda x: (x @ x, x), lambda x, g: (g @ x.T @ x,))
    both = jax.value_and_grad
    assert work(both(deep), SQUARE).flops == 4 * PRODUCT
    assert work(both(jax.checkpoint(deep)), SQUARE).flops == 5 * PRODUCT  # one product anew
    assert work(own, SQUARE).flops == PRODUCT
    assert work(jax.grad(lambda x: own(x).sum()), SQUARE).flops == 3 * PRODUCT


def test_what_runs_on_each_device_counts_on_all_of_them():
    mesh, split = AbstractMesh((2,), ("data",)), PartitionSpec("data")
    mapped = jax.shard_map(lambda x: x.T @ x, mesh=mesh, in_specs=split, out_specs=split)
    assert work(mapped, SQUARE).flops == 2 * (2 * 4 * 4 * 2)
