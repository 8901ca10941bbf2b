"""CFBI's checkpoints: every name finds its place, and what does not fit is named."""

import functools

import jax
import numpy as np
import pytest

from tests.fixtures import load_spec
from tests.systems.cfbi.cases import mobilenet_spec, official_arrays
from vos_jax.convert import BACKBONES
from vos_jax.systems.build import variable_shapes
from vos_jax.systems.cfbi.model import CFBI
from vos_jax.systems.cfbi.official import from_official
from vos_jax.systems.cfbi.plus import CFBIPlus
from vos_jax.train.optim import fits, parameter_paths

SYSTEMS = {"cfbi": CFBI, "cfbiplus": CFBIPlus}
FROZEN = (r"^deeplab/.*(norm|bn1)/",)  # the release keeps them as buffers


@functools.cache
def _target(system):
    return variable_shapes(SYSTEMS[system]())


@pytest.mark.parametrize(("system", "stored"), [("cfbi", 753), ("cfbiplus", 762)])
def test_every_official_array_is_used_once(system, stored):
    arrays = official_arrays(system)
    variables, unused = from_official(arrays, _target(system))
    assert unused == [] and len(jax.tree.leaves(variables)) == stored
    assert jax.tree.map(np.shape, variables) == jax.tree.map(lambda x: x.shape, _target(system))


@pytest.mark.parametrize("system", ["cfbi", "cfbiplus"])
def test_norms_of_the_deeplab_are_all_that_the_release_does_not_train(system):
    params = _target(system)["params"]
    leaves = zip(parameter_paths(params), jax.tree.leaves(params), strict=True)
    trained = [leaf.size for path, leaf in leaves if not fits(FROZEN, path)]
    shapes = dict(load_spec(system)["params"])
    names = load_spec(system)["trainable"]
    assert len(trained) == len(names)
    assert sum(trained) == sum(int(np.prod(shapes[name])) for name in names)


def test_mobilenet_stores_most_blocks_under_several_names():
    spec = mobilenet_spec()
    variables, unused = from_official(
        official_arrays("cfbi", spec), variable_shapes(CFBI(backbone="mobilenet_v2"))
    )
    assert unused == []
    assert len(jax.tree.leaves(variables)) == len(spec["params"]) - len(spec["aliases"])


def test_two_names_of_one_layer_must_agree():
    arrays = official_arrays("cfbi")
    from_official(
        {k: v for k, v in arrays.items() if not k.startswith("semantic")}, _target("cfbi")
    )
    arrays["semantic_embedding.4.bias"] = arrays["semantic_embedding.4.bias"] + 1
    with pytest.raises(
        ValueError, match=r"semantic_embedding\.4\.bias and bn2\.bias are two names"
    ):
        from_official(arrays, _target("cfbi"))


def test_what_does_not_fit_is_named():
    arrays = official_arrays("cfbi")
    del arrays["dynamic_seghead.IA9.IA.weight"]
    arrays["fg_bias"] = np.zeros((3, 1, 1, 1), np.float32)
    with pytest.raises(ValueError) as error:
        from_official(arrays, _target("cfbi"))
    message = str(error.value)
    assert "1 missing, 1 mis-shaped" in message
    assert "dynamic_seghead.IA9.IA.weight (for params/ensembler/aspp_gate/linear/kernel" in message
    assert "fg_bias [3]: does not fit params/foreground_bias [1]" in message


def test_values_land_where_their_names_say():
    arrays = official_arrays("cfbi")
    variables = from_official(arrays, _target("cfbi")).variables
    params, stats = variables["params"], variables["batch_stats"]
    pooled = arrays["feature_extracter.aspp.conv1.weight"][:, 1024:]
    found = params["deeplab"]["concat_projection"]["conv"]["kernel"][0, 0, :256]
    np.testing.assert_array_equal(found, pooled[..., 0, 0].T)
    weight = arrays["dynamic_seghead.layer6.downsample.1.weight"]
    found = params["ensembler"]["stage3_layer1"]["downsample"]["norm"]["scale"]
    np.testing.assert_array_equal(found, weight)
    gate = arrays["dynamic_seghead.IA5.IA.weight"]
    found = params["ensembler"]["stage2_gate3"]["linear"]["kernel"]
    np.testing.assert_array_equal(found, gate.T)
    variance = arrays["feature_extracter.backbone.layer4.2.bn2.running_var"]
    found = stats["deeplab"]["backbone"]["layer4_2"]["conv2"]["norm"]["var"]
    np.testing.assert_array_equal(found, variance)


def test_deeplab_of_the_pretraining_lists_its_classifier():
    prefix = "feature_extracter."
    arrays = {
        k.removeprefix(prefix): v
        for k, v in official_arrays("cfbi").items()
        if k.startswith(prefix)
    }
    arrays["decoder.last_conv.8.weight"] = np.zeros((21, 256, 1, 1), np.float32)
    arrays["decoder.last_conv.8.bias"] = np.zeros(21, np.float32)
    module, importer = BACKBONES["deeplabv3plus_resnet101"]
    target = jax.eval_shape(module().init, jax.random.key(0), np.zeros((1, 33, 33, 3), np.float32))
    variables, unused = importer(arrays, target)
    assert unused == ["decoder.last_conv.8.bias", "decoder.last_conv.8.weight"]
    inside = {name: tree["deeplab"] for name, tree in _target("cfbi").items()}
    assert jax.tree.map(np.shape, variables) == jax.tree.map(lambda x: x.shape, inside)
