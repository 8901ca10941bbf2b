"""RVOS's checkpoints: every name finds its place, and what does not fit is named."""

import functools

import jax
import numpy as np
import pytest

from tests.systems.rvos.cases import TASKS, official_arrays, released_model
from vos_jax.systems.build import variable_shapes
from vos_jax.systems.rvos.model import RVOS
from vos_jax.systems.rvos.official import from_official


@functools.cache
def target(task):
    return variable_shapes(released_model(task, 10))


@pytest.mark.parametrize("task", TASKS)
def test_every_official_array_has_exactly_one_place(task):
    arrays = official_arrays(task)
    variables, unused = from_official(arrays, target(task))
    assert unused == ["base.fc.bias", "base.fc.weight"]
    counters = [name for name in arrays if name.endswith("num_batches_tracked")]
    assert len(jax.tree.leaves(variables)) == len(arrays) - len(counters) - len(unused)
    assert jax.tree.map(np.shape, variables) == jax.tree.map(lambda x: x.shape, target(task))


def test_values_land_where_their_names_say():
    arrays = official_arrays("oneshot")
    variables, _ = from_official(arrays, target("oneshot"))
    encoder, decoder = variables["params"]["encoder"], variables["params"]["decoder"]
    gates = arrays["clstm_list.2.Gates.weight"]
    np.testing.assert_array_equal(decoder["level_2"]["kernel"], gates.transpose(2, 3, 1, 0))
    np.testing.assert_array_equal(decoder["bias"], arrays["conv_out.bias"])
    np.testing.assert_array_equal(encoder["skip4"]["conv"]["bias"], arrays["sk4.bias"])
    np.testing.assert_array_equal(encoder["skip2"]["norm"]["scale"], arrays["bn2.weight"])
    block = encoder["backbone"]["layer3_22"]["conv2"]["conv"]["kernel"]
    expected = arrays["base.layer3.22.conv2.weight"].transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(block, expected)
    variance = variables["batch_stats"]["encoder"]["skip5"]["norm"]["var"]
    np.testing.assert_array_equal(variance, arrays["bn5.running_var"])


def test_the_stop_head_of_old_decoders_is_listed_and_anything_else_refused():
    arrays = official_arrays("zeroshot") | {"fc_stop.weight": np.zeros((1, 240), np.float32)}
    _, unused = from_official(arrays, target("zeroshot"))
    assert "fc_stop.weight" in unused
    arrays["fc_class.bias"] = np.zeros(21, np.float32)
    del arrays["conv_out.bias"]
    with pytest.raises(ValueError, match=r"1 missing, 1 unexpected(?s:.*)conv_out(?s:.*)fc_class"):
        from_official(arrays, target("zeroshot"))


def test_a_checkpoint_of_the_other_task_is_told_by_its_decoder():
    with pytest.raises(ValueError, match="384 input channels, found 385; use preset paper$"):
        from_official(official_arrays("oneshot"), target("zeroshot"))
    with pytest.raises(ValueError, match="zero-shot decoder, the model a one-shot .*paper_zero"):
        from_official(official_arrays("zeroshot"), target("oneshot"))


def test_a_model_with_another_backbone_is_refused():
    shapes = variable_shapes(RVOS(backbone="mobilenet_v2", width=0.1, size=(0, 0)))
    with pytest.raises(ValueError, match="have the backbone resnet101, this model another one"):
        from_official(official_arrays("oneshot"), shapes)
