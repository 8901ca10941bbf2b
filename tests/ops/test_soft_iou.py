"""Soft IoU of MaskProp: values, gradient, pairs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.fixtures import load_npz
from vos_jax.ops.soft_iou import soft_iou, soft_ious


def test_values_and_the_gradient_of_the_loss_match_the_equations():
    golden = load_npz("maskprop_equations", "case_a")
    a, b = golden["siou_a"], golden["siou_b"]
    np.testing.assert_allclose(soft_iou(a, b), golden["siou"], atol=1e-5)
    gradient = jax.grad(lambda a: (1 - soft_iou(a, b)).sum())(a)
    expected = golden["siou_loss_grad_a"]
    np.testing.assert_allclose(gradient, expected, atol=1e-5 * np.abs(expected).max())


def test_pairs_are_those_of_single_masks():
    rng = np.random.default_rng(0)
    a, b = np.float32(rng.random((2, 3, 6, 7))), np.float32(rng.random((2, 4, 6, 7)))
    expected = soft_iou(*np.broadcast_arrays(a[:, :, None], b[:, None]))
    np.testing.assert_allclose(soft_ious(a, b), expected, atol=1e-6)


def test_equal_masks_have_one_apart_and_empty_ones_zero():
    mask = jnp.zeros((4, 4)).at[:2].set(1.0)
    assert soft_iou(mask, mask) == 1 and soft_iou(mask, 1 - mask) == 0
    value, gradient = jax.value_and_grad(soft_iou)(jnp.zeros((4, 4)), jnp.zeros((4, 4)))
    assert value == 0 and not gradient.any()


@pytest.mark.parametrize("mass", [0.0, 1e-44, 4e-21, 1e-12, 1e-6])
def test_the_gradient_is_finite_however_little_mass_there_is(mass):
    """What the attention holds back nearly everywhere, where an object is absent."""
    found, absent = jnp.full((4, 5), mass / 20), jnp.zeros((4, 5))
    value, gradient = jax.value_and_grad(lambda x: soft_iou(x, absent))(found)
    assert value == 0 and jnp.isfinite(gradient).all()
