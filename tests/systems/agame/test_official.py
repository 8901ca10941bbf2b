"""A-GAME: official names -> our variables."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.fixtures import golden_parameters, load_spec
from vos_jax.systems.agame.official import from_official
from vos_jax.systems.build import build_model, variable_shapes


def _target(**fields):
    return variable_shapes(build_model({"name": "agame", **fields}))


@pytest.fixture(scope="module")
def arrays():
    return golden_parameters(load_spec("agame"))


@pytest.fixture(scope="module")
def target():
    return _target()


def test_every_official_array_has_exactly_one_place_but_the_classifier(arrays, target):
    variables, unused = from_official(arrays, target)
    assert unused == ["trackseg.backbone.fc.bias", "trackseg.backbone.fc.weight"]
    assert jax.tree.map(jnp.shape, variables) == jax.tree.map(jnp.shape, dict(target))
    weights = sum(x.size for name, x in arrays.items() if "running" not in name)
    counters = sum(name.endswith("tracked") for name in arrays)
    classifier = sum(arrays[name].size for name in unused)
    found = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    assert found == weights - counters - classifier == 65_517_228 - classifier


def test_the_first_convolution_of_the_propagation_is_cut_where_its_inputs_meet(arrays, target):
    """Frame, frame in which the object was given, previous masks, given masks."""
    kernel = arrays["trackseg.dynmod.layers.layer00.conv.weight"][:, :, 0, 0].T
    parts = from_official(arrays, target).variables["params"]["propagation"]
    for part, span in (
        ("now", np.s_[:2048]),
        ("then", np.s_[2048:4096]),
        ("previous", np.s_[4096:4098]),
        ("given", np.s_[4098:]),
    ):
        np.testing.assert_array_equal(parts[part]["kernel"][0, 0], kernel[span])
    assert [part for part in parts if "bias" in parts[part]] == [
        *("dilated_1", "dilated_3", "dilated_6", "given", "last")
    ]


def test_prefix_and_counters_may_be_absent(arrays, target):
    bare = {f"module.{k}": v for k, v in arrays.items() if not k.endswith("num_batches_tracked")}
    same = jax.tree.map(np.array_equal, from_official(bare, target), from_official(arrays, target))
    assert jax.tree.all(same.variables)


def test_everything_that_does_not_fit_is_named(arrays, target):
    changed = dict(arrays)
    del changed["trackseg.segmod.predictor.conv.bias"]
    changed["trackseg.appmod.cov_reg"] = np.zeros((4, 1, 64, 1, 1), np.float32)
    changed["trackseg.appmod.lr"] = np.zeros(1, np.float32)
    with pytest.raises(ValueError) as error:
        from_official(changed, target)
    message = str(error.value)
    assert "1 missing, 1 unexpected, 1 mis-shaped" in message
    assert "segmod.predictor.conv.bias (for params/upsampling/predictor/bias [2])" in message
    assert "appmod.cov_reg [4, 64]: does not fit params/regulariser [4, 512]" in message


def test_model_with_another_backbone_is_refused(arrays):
    with pytest.raises(ValueError, match="have the backbone resnet101, this model another"):
        from_official(arrays, _target(backbone="mobilenet_v2"))
