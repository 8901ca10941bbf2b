"""DeepLabv3 as COSNet has it: sizes of its grid; its numbers are compared in systems/cosnet."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vos_jax.nn.deeplab_v3 import CaffeResNet, DeepLabV3


def grid(size, backbone):
    net = DeepLabV3(backbone, features=8, pyramid=8, width=0.125)
    frames = jax.ShapeDtypeStruct((1, *size, 3), jnp.float32)
    found, _ = jax.eval_shape(net.init_with_output, jax.random.key(0), frames)
    return found.shape[1:3]


def test_the_grid_of_a_resnet_is_rounded_up_by_its_pooling():
    """As in Caffe: an even side of the stem's map gets one more."""
    sizes = {97: 13, 129: 17, 120: 16, 106: 14, 473: 60}
    for side, expected in sizes.items():
        assert grid((side, 97), "resnet18") == (expected, 13)
    assert grid((96, 160), "resnet18") == (13, 21)
    assert grid((96, 160), "mobilenet_v2") == (12, 20)


def test_every_block_of_the_last_two_layers_is_dilated_and_strides_come_first():
    blocks = [layer for layer in CaffeResNet(depth=50)._blocks()]
    dilations = [{(b["first_dilation"], b["dilation"]) for b in layer} for layer in blocks]
    assert dilations == [{(1, 1)}, {(1, 1)}, {(2, 2)}, {(4, 4)}]
    assert [layer[0]["stride"] for layer in blocks] == [1, 2, 1, 1]
    net = CaffeResNet(depth=50, layers=2, width=0.125, norm_eval=False)
    variables = jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, 33, 33, 3)))
    assert variables["params"]["layer2_0"]["conv1"]["conv"]["kernel"].shape == (1, 1, 32, 16)

    def first_of_layer2(x):
        _, seen = net.apply(
            jax.tree.map(lambda s: jnp.ones(s.shape), variables),
            x,
            capture_intermediates=lambda m, call: m.path == ("layer2_0", "conv1"),
            mutable=["intermediates"],
        )
        return seen["intermediates"]["layer2_0"]["conv1"]["__call__"][0]

    x = jax.ShapeDtypeStruct((1, 33, 33, 3), np.float32)
    assert jax.eval_shape(first_of_layer2, x).shape == (1, 5, 5, 16)


def test_an_unknown_backbone_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"backbone: expected one of .*resnet18.*found 'vgg'"):
        grid((33, 33), "vgg")
