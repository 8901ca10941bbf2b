"""COSNet's checkpoint: every name finds its place, and what does not fit is named."""

import functools

import jax
import numpy as np
import pytest

from tests.systems.cosnet.cases import official_arrays
from vos_jax.systems.build import variable_shapes
from vos_jax.systems.cosnet.model import COSNet
from vos_jax.systems.cosnet.official import from_official


@functools.cache
def target():
    return variable_shapes(COSNet())


def test_every_official_array_has_exactly_one_place():
    arrays = official_arrays()
    variables, unused = from_official(arrays, target())
    assert not unused
    counters = [name for name in arrays if name.endswith("num_batches_tracked")]
    assert len(jax.tree.leaves(variables)) == len(arrays) - len(counters)
    assert jax.tree.map(np.shape, variables) == jax.tree.map(lambda x: x.shape, target())
    parameters = sum(x.size for x in jax.tree.leaves(variables["params"]))
    assert round(parameters / 1e6, 2) == 81.24


def test_values_land_where_their_names_say():
    arrays = official_arrays()
    params = from_official(arrays, target()).variables["params"]
    weight = params["affinity"]["weight"]
    np.testing.assert_array_equal(weight, arrays["linear_e.weight"].T)
    np.testing.assert_array_equal(params["gate"]["weight"], arrays["gate.weight"].ravel())
    second = params["reference_head"]
    np.testing.assert_array_equal(second["kernel"], arrays["conv2.weight"].transpose(2, 3, 1, 0))
    np.testing.assert_array_equal(second["norm"]["scale"], arrays["bn2.weight"])
    np.testing.assert_array_equal(
        second["logits"]["kernel"][:, 0], arrays["main_classifier2.weight"].ravel()
    )
    aspp = params["encoder"]["aspp2"]["conv"]
    np.testing.assert_array_equal(aspp["bias"], arrays["encoder.layer5.conv2d_2.bias"])
    np.testing.assert_array_equal(params["encoder"]["slope"], arrays["encoder.layer5.prelu.weight"])


def test_the_prefix_of_parallel_training_and_counters_may_be_there_or_not():
    arrays = official_arrays()
    bare = {f"module.{k}": v for k, v in arrays.items() if not k.endswith("num_batches_tracked")}
    same = jax.tree.map(
        np.array_equal, from_official(bare, target()), from_official(arrays, target())
    )
    assert jax.tree.all(same.variables)


def test_everything_that_does_not_fit_is_named():
    changed = official_arrays() | {"gate.bias": np.zeros(1, np.float32)}
    changed["linear_e.weight"] = np.zeros((512, 512), np.float32)
    del changed["bn1.running_mean"]
    with pytest.raises(ValueError) as error:
        from_official(changed, target())
    message = str(error.value)
    assert "1 missing, 1 unexpected, 1 mis-shaped" in message
    assert "bn1.running_mean (for batch_stats/head/norm/mean [256])" in message
    assert "linear_e.weight [512, 512]: does not fit params/affinity/weight [256, 256]" in message


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"backbone": "mobilenet_v2"}, "have the backbone resnet101, this model another one"),
        ({"attention": "symmetric"}, "vanilla co-attention and a gate without bias"),
        ({"attention": "none"}, "vanilla co-attention and a gate without bias"),
        ({"gate_bias": True}, "vanilla co-attention and a gate without bias"),
    ],
    ids=str,
)
def test_a_model_that_is_not_the_official_one_is_refused_in_words(fields, message):
    with pytest.raises(ValueError, match=message):
        small = {"backbone": "resnet18", "width": 0.125, "features": 8, "pyramid": 8}
        from_official({}, variable_shapes(COSNet(**{**small, **fields})))
