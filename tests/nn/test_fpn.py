"""The pyramid of detectors, level by level."""

import jax
import jax.numpy as jnp
import numpy as np

from tests.tiny import lively
from vos_jax.nn.fpn import FPN

SIZES = ((9, 14, 4), (5, 7, 6), (3, 4, 8))  # of a canvas that strides do not divide


def pyramid():
    rng = np.random.default_rng(0)
    maps = tuple(jnp.float32(rng.normal(size=(2, *size))) for size in SIZES)
    module = FPN(features=5)
    return module, lively(jax.eval_shape(module.init, jax.random.key(0), maps)), maps


def test_a_coarse_map_is_added_where_its_cell_lies():
    module, variables, maps = pyramid()
    found, params = jax.jit(module.apply)(variables, maps), variables["params"]
    assert [x.shape for x in found] == [(2, *size[:2], 5) for size in (*SIZES, (2, 2))]
    merged = None
    for level in (2, 1, 0):
        lateral = params[f"lateral{level}"]
        own = maps[level] @ lateral["kernel"][0, 0] + lateral["bias"]
        if merged is not None:
            rows, columns = (np.arange(n) // 2 for n in own.shape[1:3])
            own += merged[:, rows][:, :, columns]
        merged = own
        smooth = params[f"smooth{level}"]
        expected = jax.lax.conv_general_dilated(
            own, smooth["kernel"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        np.testing.assert_allclose(found[level], expected + smooth["bias"], atol=1e-5)
    np.testing.assert_array_equal(found[3], found[2][:, ::2, ::2])
