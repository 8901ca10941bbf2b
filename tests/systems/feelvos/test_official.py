"""FEELVOS, Xception-65 and MobileNetV2: official names -> our variables."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.fixtures import GOLDEN, fixture, golden_parameters, load_spec
from vos_jax.nn.mobilenet_v2 import MobileNetV2
from vos_jax.nn.xception import Xception65
from vos_jax.official import mobilenet_v2, xception
from vos_jax.official.checkpoint_files import read_arrays
from vos_jax.systems.build import build_model, variable_shapes
from vos_jax.systems.feelvos import official as feelvos


def _target(**fields):
    model = build_model({"name": "feelvos", **fields})
    return variable_shapes(model)


def _backbone_target(module):
    return jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 33, 33, 3)))


@pytest.fixture(scope="module")
def arrays():
    return golden_parameters(load_spec("feelvos"))


@pytest.fixture(scope="module")
def target():
    return _target()


def test_every_official_array_has_exactly_one_place(arrays, target):
    variables, unused = feelvos.from_official(arrays, target)
    assert unused == []
    assert len(jax.tree.leaves(variables)) == len(arrays) == 752
    assert jax.tree.map(jnp.shape, variables) == jax.tree.map(jnp.shape, dict(target))
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == 41_393_819


def test_values_land_where_their_names_say(arrays, target):
    variables, _ = feelvos.from_official(arrays, target)
    unit = "xception_65/middle_flow/block1/unit_11/xception_module/separable_conv2"
    ours = variables["params"]["deeplab"]["backbone"]["unit_11"]["sep2"]
    depthwise = arrays[f"{unit}_depthwise/depthwise_weights"]
    np.testing.assert_array_equal(ours["depthwise"]["conv"]["kernel"][..., 0, :], depthwise[..., 0])
    gamma = arrays[f"{unit}_pointwise/BatchNorm/gamma"]
    np.testing.assert_array_equal(ours["pointwise"]["norm"]["scale"], gamma)
    variance = arrays["aspp2_depthwise/BatchNorm/moving_variance"]
    aspp = variables["batch_stats"]["deeplab"]["aspp2"]
    np.testing.assert_array_equal(aspp["depthwise"]["norm"]["var"], variance)


def test_optimizer_slots_and_step_are_skipped(arrays, target):
    extra = {
        "global_step": np.int64(200004),
        "aspp0/weights/Momentum": arrays["aspp0/weights"],
        "aspp0/weights/ExponentialMovingAverage": arrays["aspp0/weights"],
    }
    variables, unused = feelvos.from_official(arrays | extra, target)
    assert unused == [] and len(jax.tree.leaves(variables)) == 752


def test_incomplete_checkpoint_is_refused_with_all_missing_names(arrays, target):
    tiny = read_arrays(fixture("feelvos") / "tiny_ckpt" / "model.ckpt-200004")
    with pytest.raises(ValueError) as error:
        feelvos.from_official(tiny, target)
    message = str(error.value)
    present = set(tiny) & set(arrays)
    assert f"{len(arrays) - len(present)} missing (the model has 752 arrays)" in message
    listed = {line.split()[0] for line in message.splitlines() if line.startswith("  ")}
    assert listed == set(arrays) - present


def test_unknown_weight_is_refused(arrays, target):
    with pytest.raises(ValueError, match=r"1 unexpected(?s:.*)  aspp4/weights \[1, 1, 5\]"):
        feelvos.from_official(arrays | {"aspp4/weights": np.zeros((1, 1, 5))}, target)


def test_other_cues_change_the_first_head_layer_only(arrays):
    """Ablation 4 has one cue instead of three: 257 input channels."""
    target = _target(previous_frame_local=False, previous_prediction=False)
    first = "embedding_seg/split_separable_conv2d_0"
    with pytest.raises(ValueError) as error:
        feelvos.from_official(arrays, target)
    message = str(error.value)
    assert "3 mis-shaped" in message
    assert f"{first}_depthwise/depthwise_weights [7, 7, 259, 1]: does not fit" in message
    assert f"{first}_pointwise/weights [1, 1, 259, 256]" in message
    cut = {
        f"{first}_depthwise/depthwise_weights": np.s_[:, :, :257],
        f"{first}_depthwise/biases": np.s_[:257],
        f"{first}_pointwise/weights": np.s_[:, :, :257],
    }
    own = arrays | {name: arrays[name][index] for name, index in cut.items()}
    variables, _ = feelvos.from_official(own, target)
    layer = variables["params"]["head"]["layer0"]
    assert layer["depthwise"]["kernel"].shape == (7, 7, 1, 257)


def test_model_with_another_backbone_is_refused(arrays):
    with pytest.raises(ValueError, match="have the backbone xception_65, this model another"):
        feelvos.from_official(arrays, _target(backbone="mobilenet_v2"))


def test_xception_comes_out_of_a_whole_system_with_the_rest_listed(arrays):
    target = _backbone_target(Xception65())
    variables, unused = xception.from_official(arrays, target)
    assert jax.tree.map(jnp.shape, variables) == jax.tree.map(jnp.shape, dict(target))
    assert set(unused) == {name for name in arrays if not name.startswith("xception_65/")}


def test_xception_without_one_unit_is_refused(arrays):
    partial = {name: value for name, value in arrays.items() if "/unit_16/" not in name}
    with pytest.raises(ValueError, match=r"30 missing(?s:.*)unit_16/xception_module"):
        xception.from_official(partial, _backbone_target(Xception65()))


@pytest.fixture(scope="module")
def torchvision():
    spec = json.loads((GOLDEN / "mobilenet_v2" / "spec.json").read_text())
    counters = {"features.0.1.num_batches_tracked": np.int64(3)}
    return golden_parameters(spec) | counters


def test_mobilenet_lists_the_classifier_and_the_last_convolution(torchvision):
    variables, unused = mobilenet_v2.from_official(torchvision, _backbone_target(MobileNetV2()))
    assert {name.rsplit(".", 2)[0] for name in unused} == {"classifier", "features.18"}
    kernel = variables["params"]["features_5"]["expand"]["conv"]["kernel"]
    np.testing.assert_array_equal(
        kernel[0, 0], torchvision["features.5.conv.0.0.weight"][:, :, 0, 0].T
    )


def test_mobilenet_of_another_width_is_refused(torchvision):
    with pytest.raises(
        ValueError, match=r"mis-shaped(?s:.*)features\.0\.0\.weight \[32, 3, 3, 3\]"
    ):
        mobilenet_v2.from_official(torchvision, _backbone_target(MobileNetV2(width=0.5)))
