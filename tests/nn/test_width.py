"""One multiplier for the channels of every backbone."""

import jax
import jax.numpy as jnp
import pytest
from flax import traverse_util

from vos_jax.nn.deeplab import DeepLabV3Plus
from vos_jax.nn.deeplab_dense import DenseDeepLabV3Plus
from vos_jax.nn.mobilenet_v2 import MobileNetV2
from vos_jax.nn.resnet import ResNet
from vos_jax.nn.xception import Xception65

MOST = 2 / 3  # half of 24 channels are 16, a multiple of 8


def shapes_and_maps(model):
    maps, variables = jax.eval_shape(
        lambda x: model.init_with_output(jax.random.key(0), x), jnp.zeros((1, 33, 33, 3))
    )
    flat = traverse_util.flatten_dict(variables["params"], sep="/")
    return {path: x.shape for path, x in flat.items()}, maps


@pytest.mark.parametrize("backbone", [MobileNetV2, ResNet, Xception65])
def test_half_the_width_has_half_the_channels(backbone):
    (whole, maps), (half, half_maps) = (shapes_and_maps(backbone(width=w)) for w in (1.0, 0.5))
    assert half.keys() == whole.keys()
    for x, y in zip(half_maps, maps, strict=True):
        assert x.shape[:3] == y.shape[:3]
        # multiples of 8, not more than 10 % below
        assert 0.45 * y.shape[3] <= x.shape[3] <= 0.5 * y.shape[3] + 4
    for path, shape in half.items():
        assert shape[-1] <= MOST * whole[path][-1], path


@pytest.mark.parametrize(
    ("network", "backbone"),
    [
        (DeepLabV3Plus, "xception_65"),
        (DeepLabV3Plus, "mobilenet_v2"),
        (DenseDeepLabV3Plus, "resnet101"),
        (DenseDeepLabV3Plus, "mobilenet_v2"),
    ],
)
def test_deeplab_hands_its_width_to_every_backbone(network, backbone):
    (whole, _), (half, _) = (shapes_and_maps(network(backbone, width=w)) for w in (1.0, 0.5))
    for path, shape in half.items():
        share = MOST if path.startswith("backbone/") else 1
        assert shape[-1] <= share * whole[path][-1], path
    assert sum(shape != whole[path] for path, shape in half.items()) > 0.8 * sum(
        path.startswith("backbone/") for path in half
    )
