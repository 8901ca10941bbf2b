"""Deformable convolution v1 and v2 against torchvision, forward and backward."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.fixtures import load_npz, skip_where_trimmed
from vos_jax.ops.deform_conv import deform_conv

CASES = ("v1_3x3", "v1_3x3_s2_d2_og2", "v2_3x3", "v2_5x5_og4", "v1_1x1")
TRIMMED = {f"{case}/x" for case in ("v1_3x3", "v2_5x5_og4")}


def channels_last(x):
    return np.moveaxis(x, 1, -1)


@pytest.mark.parametrize("case", CASES)
def test_results_and_gradients_match_torchvision(case):
    golden = load_npz("detection_ops", "deform_conv")
    skip_where_trimmed(f"{case}/x", golden, TRIMMED)
    of_case = {k.split("/")[1]: v for k, v in golden.items() if k.startswith(f"{case}/")}
    options = of_case.pop("cfg_stride_pad_dil_groups_offgroups").tolist()
    names = [name for name in ("x", "offset", "weight", "mask") if name in of_case]

    def layout(name, array):
        return array.transpose(2, 3, 1, 0) if name.endswith("weight") else channels_last(array)

    def result(arrays):
        arrays = dict(zip(names, arrays, strict=True))
        arrays = (
            arrays["x"],
            arrays["offset"],
            arrays["weight"],
            of_case["bias"],
            arrays.get("mask"),
        )
        return deform_conv(*arrays, *options)

    def loss(arrays):
        found = result(arrays)
        return (found * channels_last(of_case["grad_out"])).sum(), found

    arrays = [layout(name, of_case[name]) for name in names]
    gradients, found = jax.jit(jax.grad(loss, has_aux=True))(arrays)
    compared = {"out": found, **{f"grad_{n}": g for n, g in zip(names, gradients, strict=True)}}
    for name, value in compared.items():
        expected = layout(name, of_case[name])
        bar = 1e-5 * np.abs(expected).max()
        np.testing.assert_allclose(value, expected, rtol=0, atol=bar, err_msg=name)


def test_offsets_are_down_then_across():
    golden = {
        k.split("/")[1]: v
        for k, v in load_npz("detection_ops", "deform_conv").items()
        if "probe" in k
    }
    x, offset = channels_last(golden["x"]), channels_last(golden["offset"])
    found = deform_conv(x, offset, np.ones((1, 1, 1, 1), np.float32))
    np.testing.assert_allclose(found, channels_last(golden["out"]), atol=1e-5)


def test_without_offsets_it_is_a_convolution():
    rng = np.random.default_rng(0)
    x, kernel = np.float32(rng.normal(size=(2, 9, 8, 4))), np.float32(rng.normal(size=(3, 3, 2, 6)))
    offset = jnp.zeros((2, 5, 4, 18))
    found = deform_conv(x, offset, kernel, strides=2, padding=1, groups=2)
    expected = jax.lax.conv_general_dilated(
        x,
        kernel,
        (2, 2),
        ((1, 1), (1, 1)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=2,
    )
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_wrong_channels_are_told():
    x, kernel = jnp.zeros((1, 4, 4, 2)), jnp.zeros((3, 3, 2, 1))
    with pytest.raises(ValueError, match="expected 18 channels of the offset, found 9"):
        deform_conv(x, jnp.zeros((1, 4, 4, 9)), kernel, padding=1)
    with pytest.raises(ValueError, match="expected 9 channels of the mask, found 18"):
        deform_conv(x, jnp.zeros((1, 4, 4, 18)), kernel, mask=jnp.zeros((1, 4, 4, 18)), padding=1)
