"""The propagation branch: equal to the equations through the module, its forms, what it costs."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.fixtures import load_npz
from tests.tiny import lively
from vos_jax.ops.deform_conv import deform_conv
from vos_jax.systems.maskprop.branch import PropagationBranch, propagation_losses

H, W, C = 45, 80, 32  # 360x640 at stride 8
GRID = (6, 8)
ALL = np.ones((1, 3), bool)


@functools.cache
def case():
    """The fixture's arrays as inputs of the module, and its variables."""
    golden = load_npz("maskprop_equations", "case_a")
    f, other, offsets = (
        np.moveaxis(golden[name], 0, -1)[None] for name in ("f_t", "f_td", "offsets")
    )
    module = PropagationBranch(channels=6, attention_kernel=1, offset_channels=6)
    params = variables(module, (9, 11), 6)["params"] | {
        "weight": golden["dcn_weight"].transpose(2, 3, 1, 0),
        "bias": golden["dcn_bias"],
        "w": golden["mask_weight"].ravel(),
        "b": golden["mask_bias"].reshape(()),
        "attention_map": {
            "kernel": golden["att_weight"].transpose(2, 3, 1, 0),
            "bias": golden["att_bias"],
        },
    }
    masks = golden["inst_masks"][None]
    return golden, module, {"params": params}, (f, masks, other[:, None], offsets[:, None])


def everything(module, maps, masks, valid, others):
    """Meets all parameters."""
    return module(module.reduce((maps,), maps.shape[1:3]), masks, valid, others)


def variables(module, grid, channels, seed=0):
    """Lively ones, whose offsets are some cells long."""
    c = module.channels
    shapes = ((1, *grid, channels), (1, 2, *grid), (1, 2), (1, 1, *grid, c))
    arrays = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    arrays[2] = jax.ShapeDtypeStruct(shapes[2], bool)
    init = functools.partial(module.init, method=everything)
    return lively(jax.eval_shape(init, jax.random.key(0), *arrays), seed)


def inputs(batch=2, others=2, instances=3, grid=GRID, channels=8, seed=0):
    rng = np.random.default_rng(seed)
    f, g = (
        rng.normal(size=(batch, *grid, channels)),
        rng.normal(size=(batch, others, *grid, channels)),
    )
    masks = rng.random((batch, instances, *grid)) > 0.5
    valid = np.ones((batch, instances), bool)
    return np.float32(f), np.float32(masks), valid, np.float32(g)


def tiny(**fields):
    module = PropagationBranch(**{"channels": 8, "offset_channels": 8, **fields})
    return module, variables(module, GRID, 8)


def test_logits_and_attention_match_the_equations():
    golden, module, params, arrays = case()
    logits = module.apply(params, *arrays, method="logits")
    np.testing.assert_allclose(logits[0, 0], golden["inst_logits"], atol=1e-5)
    attention = module.apply(params, arrays[2], method="attention")
    np.testing.assert_allclose(attention[0, 0], golden["attention"], atol=1e-5)


@pytest.mark.parametrize(
    "over, name", [("instances", "masks_softmax"), ("none", "masks_sigmoid_variant")]
)
def test_masks_match_the_equations(over, name):
    golden, module, params, arrays = case()
    module = module.clone(softmax_over=over)
    logits = module.apply(params, *arrays, method="logits")
    attention = module.apply(params, arrays[2], method="attention")
    found = module.apply(params, logits, attention, ALL, method="probabilities")
    np.testing.assert_allclose(found[0, 0], golden[name], atol=1e-5)


def test_its_convolution_matches_torchvision_with_gradients():
    """A predictor of each channel alone, without masks and without the other frame."""
    golden = load_npz("detection_ops", "deform_conv")
    names = ("x", "offset", "weight", "bias", "out", "grad_out", "grad_x", "grad_offset")
    arrays = [np.moveaxis(golden[f"v1_1x1/{name}"], 1, -1) for name in names if name != "bias"]
    x, offset, _, out, grad_out, *gradients = arrays
    weight, grad_weight = (
        golden[f"v1_1x1/{name}"].transpose(2, 3, 1, 0) for name in ("weight", "grad_weight")
    )
    module = PropagationBranch(channels=3, kernel=1, offset_channels=3)
    params = variables(module, x.shape[1:3], 3)["params"]
    params = {**params, "bias": golden["v1_1x1/bias"], "b": np.float32(0)}

    def loss(x, offset, weight):
        def channel(w):
            own = {"params": {**params, "weight": weight, "w": w}}
            arrays = x, jnp.ones((len(x), 1, *x.shape[1:3])), jnp.zeros_like(x)[:, None]
            return module.apply(own, *arrays, offset[:, None], method="logits")[:, 0, 0]

        found = jax.vmap(channel, out_axes=-1)(jnp.eye(3))
        return (found * grad_out).sum(), found

    found = jax.jit(jax.grad(loss, (0, 1, 2), has_aux=True))(x, offset, weight)
    expected = (*gradients, grad_weight), out
    for ours, theirs in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5 * np.abs(theirs).max())


def test_the_loss_and_its_gradient_match_the_equations():
    golden = load_npz("maskprop_equations", "case_a")
    found, truth = (golden[name][None, None] for name in ("siou_a", "siou_b"))
    count = found.shape[2]
    binary = np.isin(truth, (0, 1)).all()
    loss, gradient = jax.value_and_grad(
        lambda x: propagation_losses(x, truth, np.ones((1, count), bool)).sum()
    )(found)
    seen = truth.any(axis=(3, 4))[0, 0]
    expected = (1 - golden["siou"])[seen].mean()
    np.testing.assert_allclose(loss, expected, atol=1e-6)
    assert binary
    ours = gradient[0, 0][seen] * seen.sum()
    np.testing.assert_allclose(ours, golden["siou_loss_grad_a"][seen], atol=1e-5)


@pytest.mark.parametrize("fields", [{}, {"predictor": "relu"}, {"offset_stride": 2}])
def test_the_module_is_a_deformable_convolution_of_each_instance(fields):
    module, params = tiny(**fields)
    f, masks, valid, others = inputs()
    found = module.apply(params, f, masks, valid, others)
    offsets = module.apply(params, f, others, method="offsets")
    assert np.abs(offsets).max() > 0.5
    p, own = params["params"], np.where(masks[..., None] > 0, f[:, None], 0)
    for video, k in np.ndindex(others.shape[:2]):
        shared = jnp.broadcast_to(offsets[video, k], (3, *offsets.shape[2:]))
        phi = deform_conv(own[video], shared, p["weight"], p["bias"], padding=1) + others[video, k]
        g = module.apply(params, f, masks, others, method="propagated")[video, k]
        np.testing.assert_allclose(g + others[video, k], phi, atol=1e-4)
        phi = jax.nn.relu(phi) if fields.get("predictor") == "relu" else phi
        logits = phi @ p["w"] + p["b"]
        shares = jax.nn.softmax(jnp.concatenate([0 * logits[:1], logits]), axis=0)[1:]
        attention = module.apply(params, others[video, k], method="attention")
        np.testing.assert_allclose(found[video, k], shares * attention, atol=1e-4)


def test_the_other_frame_decides_between_instances_only_where_the_predictor_is_not_linear():
    f, masks, valid, others = inputs(others=1)
    for fields, has_a_say in (
        ({"softmax_over": "instances"}, False),
        ({"softmax_over": "instances", "predictor": "relu"}, True),
        ({}, True),
    ):
        module, params = tiny(**fields)
        offsets = module.apply(params, f, others, method="offsets")
        attention = np.ones((2, 1, *GRID), np.float32)
        pair = [
            module.apply(
                params,
                module.apply(params, f, masks, x, offsets, method="logits"),
                attention,
                valid,
                method="probabilities",
            )
            for x in (others, others + 3)
        ]
        assert np.allclose(*pair, atol=1e-4) != has_a_say


def test_padding_changes_nothing_and_chunks_give_the_same():
    module, params = tiny()
    f, masks, valid, others = inputs(instances=5)
    expected = module.apply(params, f, masks, valid, others)
    chunked = module.clone(instance_chunk=2)
    np.testing.assert_allclose(chunked.apply(params, f, masks, valid, others), expected, atol=1e-6)
    padded = np.concatenate([masks, np.ones_like(masks)], axis=1)
    there = np.arange(10)[None] < 5
    found = module.apply(params, f, padded, np.repeat(there, 2, axis=0), others)
    np.testing.assert_allclose(found[:, :, :5], expected, atol=1e-6)
    assert not found[:, :, 5:].any()


def test_it_begins_with_every_tap_at_its_own_place():
    module = PropagationBranch(channels=8, offset_channels=8)
    f, masks, valid, others = inputs()
    params = module.init(jax.random.key(0), f, masks, valid, others, method=everything)
    assert not np.any(module.apply(params, f, others, method="offsets"))
    g = module.apply(params, f, masks, others, method="propagated")
    np.testing.assert_allclose(g[:, 0], masks[..., None] * f[:, None], atol=0.4)


def test_maps_of_a_pyramid_are_brought_to_one_grid():
    module, params = tiny()
    rng = np.random.default_rng(0)
    levels = [np.float32(rng.normal(size=(1, 12 >> k, 16 >> k, 8))) for k in range(3)]
    pooled = levels[0].reshape(1, 6, 2, 8, 2, 8).mean(axis=(2, 4))
    coarse = jax.image.resize(levels[2], levels[1].shape, "bilinear")
    expected = module.apply(params, (pooled + levels[1] + coarse,), GRID, method="reduce")
    found = module.apply(params, tuple(levels), GRID, method="reduce")
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_an_instance_counts_in_the_frames_that_show_it():
    rng = np.random.default_rng(0)
    found = np.float32(rng.random((2, 2, 3, *GRID)))
    truth = rng.random(found.shape) > 0.5
    truth[0, 1, 2] = truth[1, 0] = False
    valid = np.array([[True, True, True], [True, True, False]])
    loss, gradient = jax.value_and_grad(lambda x: propagation_losses(x, truth, valid).mean())(found)
    both, either = (found * truth).sum((3, 4)), (found + truth - found * truth).sum((3, 4))
    counted = truth.any((3, 4)) & valid[:, None]
    np.testing.assert_allclose(loss, (1 - both / either)[counted].mean(), rtol=1e-5)
    assert not np.any(gradient[~counted]) and np.any(gradient[counted])
    nothing = propagation_losses(found, np.zeros_like(truth), valid)
    assert not np.any(nothing)


@functools.cache
def compiled(others, instances, gradient=False, **fields):
    """The propagation stage of a frame of 360x640 at stride 8."""
    module = PropagationBranch(channels=C, offset_channels=C, **fields)
    shapes = ((1, H, W, C), (1, instances, H, W), (1, instances), (1, others, H, W, C))
    arrays = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    params = jax.eval_shape(
        functools.partial(module.init, method=everything), jax.random.key(0), *arrays
    )

    def loss(*arguments):
        return jnp.square(module.apply(*arguments)).sum()

    return (
        jax.jit(jax.value_and_grad(loss) if gradient else module.apply)
        .lower(params, *arrays)
        .compile()
    )


def test_ten_instances_cost_hardly_more_than_one():
    """By operations, with channels so few (32, not 128) that instances weigh much."""
    one, ten = compiled(2, 1), compiled(2, 10)
    assert "while" not in ten.as_text()  # a loop would count once
    assert ten.cost_analysis()["flops"] <= 1.3 * one.cost_analysis()["flops"]


def test_cost_is_linear_in_the_reach():
    counts = [compiled(2 * reach, 10).cost_analysis()["flops"] for reach in (1, 2, 4)]
    steps = np.diff(counts)
    np.testing.assert_allclose(steps[1], 2 * steps[0], rtol=0.02)
    np.testing.assert_allclose(counts[0], steps[0], rtol=0.1)


@pytest.mark.parametrize("fields", [{}, {"predictor": "relu"}])
def test_no_array_holds_the_channels_of_all_instances_and_taps(fields):
    program = compiled(1, 10, gradient=not fields, **fields).as_text()
    shapes = set(re.findall(r"\w+\[([\d,]+)\]", program))
    largest = max(np.prod([*map(int, shape.split(","))]) for shape in shapes)
    assert largest <= 10 * H * W * 36  # what each instance has at the corners of each tap
    assert largest < 10 * H * W * 9 * C / 4


def test_memory_grows_with_the_chunk_and_not_with_the_instances():
    held = {
        (count, chunk): compiled(2, count, instance_chunk=chunk)
        .memory_analysis()
        .temp_size_in_bytes
        for count, chunk in ((4, 4), (40, 4), (40, 40))
    }
    results = 2 * 36 * H * W * 4  # what 36 more instances give, logits and masks in two forms
    assert held[40, 4] <= held[4, 4] + 4 * results
    assert held[40, 4] < 0.5 * held[40, 40]


@pytest.mark.parametrize("field", ["predictor", "softmax_over"])
def test_another_choice_is_refused_by_name(field):
    module = PropagationBranch(channels=8, **{field: "all"})
    with pytest.raises(ValueError, match=f"config.model.{field}: expected one of .*found 'all'"):
        variables(module, GRID, 8)


def test_a_stride_of_offsets_that_does_not_divide_the_grid_is_refused():
    module = PropagationBranch(channels=8, offset_stride=4)
    with pytest.raises(ValueError, match=r"offset_stride: expected a divisor of .*\(6, 8\).*4"):
        variables(module, GRID, 8)
