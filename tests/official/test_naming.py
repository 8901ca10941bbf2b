"""Strict matching of official arrays with our variables."""

import numpy as np
import pytest

from vos_jax.official.naming import (
    Source,
    as_is,
    depthwise_from_tensorflow,
    kernel_from_torch,
    match,
)

WANTED = {
    "params/conv/kernel": Source("conv.weight", kernel_from_torch),
    "params/conv/bias": Source("conv.bias", as_is),
}
SHAPES = {"params/conv/kernel": (3, 3, 2, 4), "params/conv/bias": (4,)}


def _arrays(**changes):
    arrays = {
        "conv.weight": np.random.default_rng(0).normal(size=(4, 2, 3, 3)),
        "conv.bias": np.arange(4),
    }
    arrays |= {name.replace("__", "."): value for name, value in changes.items()}
    return {name: value for name, value in arrays.items() if value is not None}


def test_leaves_land_in_our_tree_as_float32_in_our_layout():
    arrays = _arrays()
    variables, unused = match(arrays, WANTED, SHAPES)
    kernel = variables["params"]["conv"]["kernel"]
    assert kernel.dtype == np.float32 and unused == []
    assert kernel[1, 2, 0, 3] == np.float32(arrays["conv.weight"][3, 0, 1, 2])
    np.testing.assert_array_equal(variables["params"]["conv"]["bias"], np.arange(4))


def test_ignored_names_vanish_and_listed_ones_are_returned():
    arrays = _arrays(conv__weight__momentum=np.zeros(1), head__weight=np.zeros(2))
    variables, unused = match(arrays, WANTED, SHAPES, ignore=[r"momentum$"], listed=[r"^head\."])
    assert unused == ["head.weight"] and set(variables["params"]) == {"conv"}


def test_one_error_names_everything_that_does_not_fit():
    arrays = _arrays(conv__bias=None, conv__weight=np.zeros((4, 5, 3, 3)), extra=np.zeros((1, 7)))
    with pytest.raises(ValueError) as error:
        match(arrays, WANTED, SHAPES)
    message = str(error.value)
    assert "1 missing, 1 unexpected, 1 mis-shaped" in message
    assert "conv.bias (for params/conv/bias [4])" in message
    assert "extra [1, 7]" in message
    assert "conv.weight [4, 5, 3, 3]: does not fit params/conv/kernel [3, 3, 2, 4]" in message


def test_array_with_another_number_of_axes_is_misshaped():
    with pytest.raises(ValueError, match=r"conv\.weight \[8\]: does not fit"):
        match(_arrays(conv__weight=np.zeros(8)), WANTED, SHAPES)


def test_depthwise_kernels_of_both_frameworks_become_kh_kw_1_c():
    ours = np.arange(3 * 3 * 5).reshape(3, 3, 1, 5)
    np.testing.assert_array_equal(depthwise_from_tensorflow(ours.reshape(3, 3, 5, 1)), ours)
    np.testing.assert_array_equal(kernel_from_torch(ours.transpose(3, 2, 0, 1)), ours)
