"""MaskProp's propagation: equal to its equations, in both forms, and what an instance costs."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.accelerator import lowered
from tests.fixtures import load_npz
from vos_jax.ops.deform_conv import deform_conv
from vos_jax.ops.mask_propagation import (
    _collapsed,
    _contracted,
    instance_probabilities,
    propagate,
    propagate_features,
)

H, W, C = 45, 80, 128  # 360x640 at stride 8
ALL = np.ones(3, bool)


@functools.cache
def case():
    golden = load_npz("maskprop_equations", "case_a")
    features, other, offsets = (
        np.moveaxis(golden[name], 0, -1) for name in ("f_t", "f_td", "offsets")
    )
    kernel, w = golden["dcn_weight"].transpose(2, 3, 1, 0), golden["mask_weight"].ravel()
    arrays = (features, golden["inst_masks"], offsets, kernel, golden["dcn_bias"])
    return golden, arrays, (w, golden["mask_bias"]), other


def test_logits_and_features_match_the_equations():
    golden, arrays, predictor, other = case()
    logits = propagate(*arrays, *predictor, other=other)
    np.testing.assert_allclose(logits, golden["inst_logits"], atol=1e-5)
    found = propagate_features(*arrays)
    np.testing.assert_allclose(np.moveaxis(found, -1, 1), golden["g"], atol=1e-5)
    np.testing.assert_allclose(np.moveaxis(found + other, -1, 1), golden["phi"], atol=1e-5)


@pytest.mark.parametrize(
    "over, name", [("instances", "masks_softmax"), ("none", "masks_sigmoid_variant")]
)
def test_probabilities_match_the_equations(over, name):
    golden, arrays, predictor, other = case()
    logits = propagate(*arrays, *predictor, other=other)
    found = instance_probabilities(logits, golden["attention"], ALL, over)
    np.testing.assert_allclose(found, golden[name], atol=1e-5)


def test_the_published_softmax_does_not_see_the_other_frame_and_a_background_does():
    golden, arrays, predictor, other = case()
    with_other, without = (
        propagate(*arrays, *predictor, other=other),
        propagate(*arrays, *predictor),
    )
    attention = golden["attention"]
    for over, close in (("instances", True), ("background", False)):
        pair = [instance_probabilities(x, attention, ALL, over) for x in (with_other, without)]
        assert np.allclose(*pair, atol=1e-5) == close
    one = instance_probabilities(with_other[:1], attention, ALL[:1], "instances")
    np.testing.assert_allclose(one[0], attention, atol=1e-6)
    shares = instance_probabilities(with_other, jnp.ones_like(attention), ALL, "background")
    background = jax.nn.softmax(jnp.concatenate([0 * with_other[:1], with_other]), axis=0)[0]
    np.testing.assert_allclose(shares.sum(axis=0) + background, 1, atol=1e-5)


@pytest.mark.parametrize("over", ["background", "instances", "none"])
def test_padding_changes_no_probability_and_a_clip_without_instances_is_zero(over):
    golden, arrays, predictor, other = case()
    logits = propagate(*arrays, *predictor, other=other)
    expected = instance_probabilities(logits, golden["attention"], ALL, over)
    padded = jnp.pad(logits, ((0, 2), (0, 0), (0, 0)), constant_values=50.0)
    found = instance_probabilities(padded, golden["attention"], np.arange(5) < 3, over)
    np.testing.assert_allclose(found[:3], expected, atol=1e-6)
    assert not found[3:].any()

    def total(logits):
        return instance_probabilities(logits, golden["attention"], ~ALL, over).sum()

    value, gradient = jax.value_and_grad(total)(logits)
    assert value == 0 and np.isfinite(gradient).all()


def test_both_forms_equal_a_deformable_convolution_of_each_instance_with_their_gradients():
    _, arrays, (w, _), _ = case()
    weight = np.float32(np.random.default_rng(0).normal(size=(3, *arrays[0].shape[:2])))

    def one_by_one(features, masks, offsets, kernel, bias, w):
        images = features * masks[..., None]
        shared = jnp.broadcast_to(offsets, (len(masks), *offsets.shape))
        return deform_conv(images, shared, kernel, bias, padding=1) @ w

    def values(form):
        def loss(*inputs):
            found = form(*inputs)
            return (found * weight).sum(), found

        inputs = tuple(map(jnp.asarray, (*arrays, w)))
        return jax.jit(jax.value_and_grad(loss, argnums=range(6), has_aux=True))(*inputs)

    expected = values(one_by_one)
    for form in (_collapsed, _contracted):
        for ours, theirs in zip(*map(jax.tree.leaves, (values(form), expected)), strict=True):
            bar = 1e-5 * max(np.abs(theirs).max(), 1)
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=bar)


def step(instances):
    """A compiled training step of the propagation, of 360x640 at stride 8."""
    shapes = ((H, W, C), (instances, H, W), (H, W, 18), (3, 3, C, C), (C,), (C,), (), (H, W, C))
    arrays = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]

    def loss(*arrays):
        return jnp.square(propagate(*arrays)).sum()

    return jax.jit(jax.value_and_grad(loss, argnums=range(7))).lower(*arrays).compile()


def test_ten_instances_cost_hardly_more_than_one():
    """Operations of value and gradient; there is no loop, which would count once."""
    one, ten = step(1), step(10)
    assert "while" not in one.as_text() and "while" not in ten.as_text()
    assert ten.cost_analysis()["flops"] <= 1.3 * one.cost_analysis()["flops"]


@pytest.mark.parametrize("form", [propagate, propagate_features])
def test_no_array_holds_the_channels_of_all_instances_and_taps(form):
    count = 10
    shapes = ((H, W, C), (count, H, W), (H, W, 18), (3, 3, C, C), (C,))
    shapes += ((C,), ()) if form is propagate else ()
    arrays = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    compiled = jax.jit(form).lower(*arrays).compile()
    results = count * H * W * C * 4 if form is propagate_features else 0
    held = compiled.memory_analysis().temp_size_in_bytes - results
    assert held < count * H * W * 9 * C * 4 / 8


def test_a_tpu_contracts_rows_and_others_read_scalars():
    shapes = ((4, 5, 8), (2, 4, 5), (4, 5, 18), (3, 3, 8, 8), (8,), (8,), ())
    text = lowered(jax.jit(propagate), *map(jnp.zeros, shapes))
    assert "while" in text["tpu"] and "while" not in text["cuda"]


def test_another_softmax_is_refused():
    with pytest.raises(ValueError, match="expected one of .*found 'all'"):
        instance_probabilities(jnp.zeros((1, 2, 2)), jnp.zeros((2, 2)), ALL[:1], "all")
