"""MobileNetV2 against a PyTorch transcription of torchvision's, and its dilated forms."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.fixtures import GOLDEN, golden_parameters
from vos_jax.nn.mobilenet_v2 import MobileNetV2
from vos_jax.official import mobilenet_v2

FOLDER = GOLDEN / "mobilenet_v2"


@pytest.fixture(scope="module")
def spec():
    return json.loads((FOLDER / "spec.json").read_text())


@pytest.fixture(scope="module")
def x(spec):
    """The fixture's input, by its rule: [1, 65, 97, 3]."""
    drawn = np.random.default_rng(spec["seed"]).normal(size=(1, 3, 65, 97))
    return drawn.transpose(0, 2, 3, 1).astype(np.float32)


def _variables(spec, model):
    target = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 33, 33, 3)))
    return mobilenet_v2.from_official(golden_parameters(spec), target).variables


@pytest.fixture(scope="module")
def at_32(spec, x):
    model = MobileNetV2(output_stride=32)
    return jax.jit(model.apply)(_variables(spec, model), x)


def test_features_and_low_level_equal_torchvision(at_32):
    golden = np.load(FOLDER / "case.npz")
    low_level, _, features = at_32
    np.testing.assert_allclose(features[..., ::8], golden["features"], atol=1e-4, rtol=0)
    np.testing.assert_allclose(low_level[..., ::4], golden["low_level"], atol=1e-4, rtol=0)


def test_last_convolution_equals_torchvision(spec, x):
    model = MobileNetV2(output_stride=32, last_conv=True)
    *_, last = jax.jit(model.apply)(_variables(spec, model), x)
    golden = np.load(FOLDER / "case.npz")
    np.testing.assert_allclose(last[..., ::16], golden["last"], atol=1e-4, rtol=0)


@pytest.mark.parametrize("output_stride", [8, 16])
def test_dilated_output_holds_the_strided_one_at_every_nth_pixel(output_stride, spec, x, at_32):
    model = MobileNetV2(output_stride=output_stride)
    *_, dense = jax.jit(model.apply)(_variables(spec, model), x)
    n = 32 // output_stride
    assert dense.shape[1:3] == (-(-65 // output_stride), -(-97 // output_stride))
    np.testing.assert_allclose(dense[:, ::n, ::n], at_32[-1], atol=1e-4, rtol=0)


def test_width_multiplies_channels_to_multiples_of_8():
    model = MobileNetV2(width=0.5)
    x = jnp.zeros((1, 33, 33, 3))
    shapes = jax.eval_shape(model.init, jax.random.key(0), x)
    low_level, middle, features = jax.eval_shape(model.apply, shapes, x)
    assert [x.shape[-1] for x in (low_level, middle, features)] == [16, 16, 160]
    assert all(leaf.shape[-1] % 8 == 0 for leaf in jax.tree.leaves(shapes))


def test_other_output_stride_is_refused():
    with pytest.raises(ValueError, match="expected 8, 16 or 32, found 4"):
        MobileNetV2(output_stride=4).init(jax.random.key(0), jnp.zeros((1, 33, 33, 3)))
