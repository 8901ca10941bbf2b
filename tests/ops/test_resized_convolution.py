from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from vos_jax.ops.resize import resize_bicubic, resize_bilinear
from vos_jax.ops.resized_convolution import convolve_resized

RESIZE = {"bilinear": resize_bilinear, "bicubic": resize_bicubic}


def values(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def resize_then_convolve(x, kernel, size, method):
    return lax.conv_general_dilated(
        RESIZE[method](x, size),
        kernel,
        (1, 1),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision="highest",
    )


@pytest.mark.parametrize("method", RESIZE)
@pytest.mark.parametrize(
    "size, sides",
    [((13, 25), (3, 3)), ((11, 9), (3, 3)), ((4, 7), (3, 3)), ((3, 20), (5, 1)), ((1, 1), (3, 3))],
)
def test_values_and_gradients_equal_resizing_and_convolving(method, size, sides):
    x, kernel = values(2, 4, 7, 5), values(*sides, 5, 6, seed=1)
    ours = partial(convolve_resized, size=size, method=method)
    expected, pull = jax.vjp(partial(resize_then_convolve, size=size, method=method), x, kernel)
    found, ours_pull = jax.vjp(ours, x, kernel)
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())
    g = values(*expected.shape, seed=2)
    for a, b in zip(ours_pull(g), pull(g), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 * np.abs(b).max())


def test_no_map_of_the_size_and_channels_of_the_resized_input_is_made():
    x, kernel = values(1, 8, 9, 64), values(3, 3, 64, 2)

    def program(function):
        return str(jax.make_jaxpr(partial(function, size=(32, 36), method="bicubic"))(x, kernel))

    assert "[1,32,36,64]" in program(resize_then_convolve)
    assert "[1,32,36,64]" not in program(convolve_resized)


def test_bfloat16_is_multiplied_as_it_is_and_summed_in_float32():
    x, kernel = values(1, 4, 5, 32).astype(jnp.bfloat16), values(3, 3, 32, 4).astype(jnp.bfloat16)
    found = convolve_resized(x, kernel, (13, 17))
    exact = resize_then_convolve(
        x.astype(jnp.float32), kernel.astype(jnp.float32), (13, 17), "bilinear"
    )
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, exact, atol=1e-5 * np.abs(exact).max())


def test_unknown_method_is_named():
    with pytest.raises(ValueError, match="expected method .* found 'area'"):
        convolve_resized(values(1, 2, 2, 1), values(3, 3, 1, 1), (4, 4), "area")
