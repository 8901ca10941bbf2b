"""DeepLabv3+ with dense convolutions: shapes and refusals; its numbers are checked with CFBI."""

import jax
import jax.numpy as jnp
import pytest

from vos_jax.nn.deeplab_dense import DenseDeepLabV3Plus, MultiGridResNet


@pytest.mark.parametrize(
    ("backbone", "channels"), [("resnet101", (256, 512)), ("mobilenet_v2", (24, 32))]
)
def test_maps_have_their_strides_and_channels(backbone, channels):
    model = DenseDeepLabV3Plus(backbone=backbone, features=8)
    x = jnp.zeros((2, 65, 81, 3))
    maps, variables = jax.eval_shape(model.init_with_output, jax.random.key(0), x)
    assert maps.low_level.shape == (2, 17, 21, channels[0])
    assert maps.mid_level.shape == (2, 9, 11, channels[1])
    assert maps.pyramid.shape == (2, 5, 6, 8) and maps.decoded.shape == (2, 17, 21, 8)
    assert variables["params"]["decoder_conv1"]["conv"]["kernel"].shape == (3, 3, 8, 8)


def test_last_layer_of_the_multi_grid_has_dilations_instead_of_a_stride():
    *layers, last = MultiGridResNet(depth=101, output_stride=16)._blocks()
    assert [len(layer) for layer in layers] == [3, 4, 23]
    assert [block["dilation"] for block in last] == [2, 4, 8]
    assert [block["first_dilation"] for block in last] == [2, 4, 8]
    assert [block.get("stride", 1) for block in last] == [1, 1, 1]


def test_unknown_backbone_is_refused():
    with pytest.raises(ValueError, match="expected one of .*resnet101.* found 'xception_65'"):
        jax.eval_shape(
            DenseDeepLabV3Plus(backbone="xception_65").init,
            jax.random.key(0),
            jnp.zeros((1, 33, 33, 3)),
        )
