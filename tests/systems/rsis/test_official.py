"""RSIS's checkpoints: every name finds its place, and what does not fit is named."""

import jax
import numpy as np
import pytest

from tests.systems.rsis.cases import RELEASED, official_arrays
from vos_jax.systems.build import variable_shapes
from vos_jax.systems.rsis.model import RSIS
from vos_jax.systems.rsis.official import from_official


@pytest.fixture(scope="module")
def target():
    return variable_shapes(RELEASED)


def test_every_official_array_has_exactly_one_place(target):
    arrays = official_arrays()
    variables, unused = from_official(arrays, target)
    assert unused == ["base.fc.bias", "base.fc.weight"]
    counters = [name for name in arrays if name.endswith("num_batches_tracked")]
    assert len(jax.tree.leaves(variables)) == len(arrays) - len(counters) - len(unused)
    assert jax.tree.map(np.shape, variables) == jax.tree.map(lambda x: x.shape, target)


def test_values_land_where_their_names_say(target):
    arrays = official_arrays()
    params = from_official(arrays, target).variables["params"]
    gates = arrays["clstm_list.4.Gates.weight"]
    np.testing.assert_array_equal(
        params["decoder"]["level_4"]["kernel"], gates.transpose(2, 3, 1, 0)
    )
    np.testing.assert_array_equal(params["encoder"]["skip1"]["conv"]["bias"], arrays["sk1.bias"])
    classes = params["heads"]["class_logits"]["kernel"]
    np.testing.assert_array_equal(classes, arrays["fc_class.weight"].T)
    np.testing.assert_array_equal(params["heads"]["stop_logits"]["bias"], arrays["fc_stop.bias"])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"classes": 9}, "tells 21 classes apart, the model 9: set --config.model.classes=21"),
        ({"boxes": True}, "have no head for boxes, this model has one"),
        ({"backbone": "resnet50"}, "not fit this model: 255 unexpected"),
        ({"backbone": "mobilenet_v2"}, "have the backbone resnet101.*such as rsis"),
    ],
)
def test_another_model_is_told_what_the_checkpoint_is_of(fields, message):
    shapes = variable_shapes(RSIS(size=(0, 0), **fields))
    with pytest.raises(ValueError, match=message):
        from_official(official_arrays(), shapes)
