"""STM and ResNet: official names -> our variables."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.fixtures import GOLDEN, golden_parameters, load_spec
from vos_jax.convert import BACKBONES
from vos_jax.official import resnet
from vos_jax.systems.build import build_model, variable_shapes
from vos_jax.systems.stm import official as stm


def _target(**fields):
    return variable_shapes(build_model({"name": "stm", **fields}))


@pytest.fixture(scope="module")
def arrays():
    return golden_parameters(load_spec("stm"))


@pytest.fixture(scope="module")
def target():
    return _target()


def test_every_official_array_has_exactly_one_place(arrays, target):
    variables, unused = stm.from_official(arrays, target)
    assert unused == [] and all(name.startswith("module.") for name in arrays)
    constants = [name for name in arrays if name.endswith((".mean", ".std", "_tracked"))]
    assert len(jax.tree.leaves(variables)) == len(arrays) - len(constants)
    assert jax.tree.map(jnp.shape, variables) == jax.tree.map(jnp.shape, dict(target))
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == 38_925_570


def test_values_land_where_their_names_say(arrays, target):
    variables, _ = stm.from_official(arrays, target)
    params, stats = variables["params"], variables["batch_stats"]
    memory = params["memory_encoder"]
    others = arrays["module.Encoder_M.conv1_o.weight"]
    np.testing.assert_array_equal(memory["others"], others.transpose(2, 3, 1, 0))
    block = params["query_encoder"]["backbone"]["layer2_0"]
    shortcut = arrays["module.Encoder_Q.res3.0.downsample.0.weight"]
    np.testing.assert_array_equal(
        block["downsample"]["conv"]["kernel"][0, 0], shortcut[..., 0, 0].T
    )
    variance = arrays["module.Encoder_M.res4.5.bn3.running_var"]
    found = stats["memory_encoder"]["backbone"]["layer3_5"]["conv3"]["norm"]["var"]
    np.testing.assert_array_equal(found, variance)
    bias = arrays["module.KV_Q_r4.Value.bias"]
    np.testing.assert_array_equal(params["query_encoder"]["heads"]["value"]["bias"], bias)
    kernel = arrays["module.Decoder.RF2.ResMM.conv1.weight"]
    found = params["decoder"]["rf2"]["res_mm"]["conv1"]["kernel"]
    np.testing.assert_array_equal(found, kernel.transpose(2, 3, 1, 0))


def test_prefix_and_counters_may_be_absent(arrays, target):
    bare = {
        name.removeprefix("module."): value
        for name, value in arrays.items()
        if not name.endswith(("num_batches_tracked", ".mean", ".std"))
    }
    same = jax.tree.map(
        np.array_equal, stm.from_official(bare, target), stm.from_official(arrays, target)
    )
    assert jax.tree.all(same.variables)


def test_everything_that_does_not_fit_is_named(arrays, target):
    changed = dict(arrays)
    del changed["module.Decoder.pred2.bias"]
    changed["module.KV_M_r4.Key.bias"] = np.zeros(64, np.float32)
    changed["module.Encoder_Q.conv1_m.weight"] = np.zeros((64, 1, 7, 7), np.float32)
    with pytest.raises(ValueError) as error:
        stm.from_official(changed, target)
    message = str(error.value)
    assert "1 missing, 1 unexpected, 1 mis-shaped" in message
    assert "Decoder.pred2.bias (for params/decoder/pred2/bias [2])" in message
    assert "Encoder_Q.conv1_m.weight [64, 1, 7, 7]" in message
    assert "KV_M_r4.Key.bias [64]: does not fit params/memory_encoder/heads/key/bias" in message


def test_model_with_another_backbone_is_refused(arrays):
    with pytest.raises(ValueError, match="have the backbone resnet50, this model another"):
        stm.from_official(arrays, _target(backbone="mobilenet_v2"))


@pytest.fixture(scope="module")
def torchvision():
    spec = json.loads((GOLDEN / "resnet" / "spec.json").read_text())
    return golden_parameters(spec["resnet50"])


def _resnet(name, **fields):
    module = BACKBONES[name][0](**fields)
    return jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 33, 33, 3)))


def test_resnet_lists_the_classifier_and_layers_the_model_lacks(torchvision):
    variables, unused = resnet.from_official(torchvision, _resnet("resnet50"))
    assert unused == ["fc.bias", "fc.weight"]
    weight = torchvision["layer4.0.downsample.1.weight"]
    scale = variables["params"]["layer4_0"]["downsample"]["norm"]["scale"]
    np.testing.assert_array_equal(scale, weight)
    _, unused = resnet.from_official(torchvision, _resnet("resnet50", layers=3))
    assert {name.split(".")[0] for name in unused} == {"fc", "layer4"}


def test_resnet_of_another_depth_is_refused_with_the_names(torchvision):
    with pytest.raises(ValueError, match=r"missing(?s:.*)layer3\.22\.conv1\.weight"):
        resnet.from_official(torchvision, _resnet("resnet101"))
