from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from vos_jax.ops.convolution import conv_general_dilated, convolve_gated

LAYOUT = ("NHWC", "HWIO", "NHWC")


def values(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def both(**options):
    """Ours and the library's, as jitted functions of input and kernel."""
    options = dict(dimension_numbers=LAYOUT) | options
    functions = conv_general_dilated, lax.conv_general_dilated
    return [jax.jit(partial(f, **options)) for f in functions]


def assert_same_values_and_gradients(x, kernel, **options):
    ours, library = both(**options)
    expected = library(x, kernel)
    np.testing.assert_allclose(ours(x, kernel), expected, atol=1e-5 * np.abs(expected).max())
    g = values(*expected.shape, seed=3)
    for a, b in zip(jax.vjp(ours, x, kernel)[1](g), jax.vjp(library, x, kernel)[1](g), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 * max(np.abs(b).max(), 1))


@pytest.mark.parametrize(
    "kernel, strides, dilation",
    [
        ((3, 3), (1, 1), (1, 1)),
        ((3, 3), (2, 2), (1, 1)),
        ((3, 3), (1, 1), (2, 2)),
        ((7, 7), (1, 1), (1, 1)),
        ((2, 5), (3, 1), (2, 3)),
        ((1, 1), (2, 2), (1, 1)),
    ],
)
def test_depthwise_equals_the_library_with_same_padding(kernel, strides, dilation):
    assert_same_values_and_gradients(
        values(2, 11, 13, 6),
        values(*kernel, 1, 6, seed=1),
        window_strides=strides,
        padding="SAME",
        rhs_dilation=dilation,
        feature_group_count=6,
    )


@pytest.mark.parametrize(
    "padding, strides",
    [
        ("VALID", (2, 2)),
        ("SAME_LOWER", (2, 2)),
        (((1, 1), (0, 3)), (1, 1)),
        (((1, 1),) * 2, (2, 2)),
    ],
)
def test_depthwise_equals_the_library_with_explicit_padding(padding, strides):
    assert_same_values_and_gradients(
        values(2, 10, 9, 5),
        values(3, 3, 1, 5, seed=1),
        window_strides=strides,
        padding=padding,
        feature_group_count=5,
    )


@pytest.mark.parametrize(
    "padding, strides",
    [
        ("SAME", (1, 1)),
        ("SAME", (2, 3)),
        ("VALID", (2, 2)),
        (((0, 0),) * 2, (2, 2)),
        (((1, 1),) * 2, (2, 2)),
    ],
)
def test_pointwise_equals_the_library(padding, strides):
    assert_same_values_and_gradients(
        values(2, 7, 8, 5),
        values(1, 1, 5, 3, seed=1),
        window_strides=strides,
        padding=padding,
    )


@pytest.mark.parametrize(
    "padding, dilation",
    [("SAME", (6, 6)), (((6, 6), (9, 9)), (6, 9)), (((4, 2), (0, 5)), (3, 2)), ("SAME", (9, 9))],
)
def test_widely_dilated_equals_the_library(padding, dilation):
    assert_same_values_and_gradients(
        values(2, 7, 8, 5),
        values(3, 3, 5, 4, seed=1),
        window_strides=(1, 1),
        padding=padding,
        rhs_dilation=dilation,
    )


def test_widely_dilated_without_room_for_the_kernel_is_empty():
    ours, library = both(window_strides=(1, 1), padding="VALID", rhs_dilation=(9, 9))
    x, kernel = values(1, 7, 8, 5), values(3, 3, 5, 4)
    assert ours(x, kernel).shape == library(x, kernel).shape == (1, 0, 0, 4)


def test_cpu_program_multiplies_only_the_taps_that_meet_the_image():
    ours, _ = both(window_strides=(1, 1), padding="SAME", rhs_dilation=(9, 9))
    x, kernel = values(1, 7, 8, 5), values(3, 3, 5, 4, seed=1)
    program = ours.trace(x, kernel).lower(lowering_platforms=("cpu",)).as_text()
    assert program.count("dot_general") == 1
    assert "convolution" not in program
    x = values(1, 40, 40, 5)
    assert "convolution" in ours.trace(x, kernel).lower(lowering_platforms=("cpu",)).as_text()


def test_dense_grouped_and_other_layouts_go_to_the_library():
    x, kernel = values(1, 6, 7, 4), values(3, 3, 4, 4, seed=1)
    assert_same_values_and_gradients(x, kernel, window_strides=(1, 1), padding="SAME")
    assert_same_values_and_gradients(
        x,
        values(3, 3, 2, 6, seed=1),
        window_strides=(1, 1),
        padding="SAME",
        feature_group_count=2,
    )
    assert_same_values_and_gradients(
        jnp.moveaxis(x, -1, 1),
        values(4, 1, 3, 3),
        window_strides=(1, 1),
        padding="SAME",
        feature_group_count=4,
        dimension_numbers=("NCHW", "OIHW", "NCHW"),
    )
    assert_same_values_and_gradients(
        x,
        values(3, 3, 1, 4, seed=1),
        window_strides=(1, 1),
        padding=((2, 2), (2, 2)),
        lhs_dilation=(2, 2),
        feature_group_count=4,
    )


def test_cpu_program_has_no_convolution_and_cuda_program_has_one():
    x, kernel = values(1, 8, 9, 4), values(3, 3, 1, 4, seed=1)
    ours, _ = both(window_strides=(1, 1), padding="SAME", feature_group_count=4)

    def program(platform):
        return ours.trace(x, kernel).lower(lowering_platforms=(platform,)).as_text()

    assert "convolution" not in program("cpu")
    assert "convolution" in program("cuda")
    assert "convolution" in program("tpu")


def test_vmap_over_inputs_and_over_kernels_equals_a_loop():
    x, kernels = values(3, 2, 6, 7, 4), values(3, 3, 3, 1, 4, seed=1)
    ours, _ = both(window_strides=(2, 2), padding="SAME", feature_group_count=4)
    looped = jnp.stack([ours(a, k) for a, k in zip(x, kernels, strict=True)])
    np.testing.assert_allclose(jax.vmap(ours)(x, kernels), looped, atol=1e-5)


def test_bfloat16_accumulates_in_float32():
    x, kernel = values(1, 9, 9, 8).astype(jnp.bfloat16), values(7, 7, 1, 8).astype(jnp.bfloat16)
    ours, library = both(window_strides=(1, 1), padding="SAME", feature_group_count=8)
    result = ours(x, kernel)
    exact = library(x.astype(jnp.float32), kernel.astype(jnp.float32))
    assert result.dtype == jnp.bfloat16
    assert np.array_equal(result, exact.astype(jnp.bfloat16))


@pytest.mark.parametrize("groups, kernel", [(6, (7, 7)), (1, (1, 1)), (1, (3, 3))])
def test_a_flax_layer_keeps_its_parameters_and_result(groups, kernel):
    x = values(1, 8, 9, 6)
    layer = partial(nn.Conv, 6, kernel, feature_group_count=groups, padding="SAME")
    quick = layer(conv_general_dilated=conv_general_dilated)
    variables = quick.init(jax.random.key(0), x)
    expected = layer().apply(variables, x)
    np.testing.assert_allclose(quick.apply(variables, x), expected, atol=1e-4)


@pytest.mark.parametrize("strides", [(1, 1), (2, 2)])
def test_gate_in_the_weights_equals_a_gated_input(strides):
    x, kernel, gate = values(3, 6, 7, 5), values(1, 1, 5, 4, seed=1), values(3, 5, seed=2)

    def folded(x, kernel, gate):
        return convolve_gated(x, kernel, strides, "VALID", gate=gate)

    def multiplied(x, kernel, gate):
        return lax.conv_general_dilated(
            x * gate[:, None, None], kernel, strides, "VALID", dimension_numbers=LAYOUT
        )

    expected, pull = jax.vjp(multiplied, x, kernel, gate)
    found, ours_pull = jax.vjp(folded, x, kernel, gate)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    g = values(*expected.shape, seed=3)
    for a, b in zip(ours_pull(g), pull(g), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 * np.abs(b).max())
