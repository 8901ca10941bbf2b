"""The encoder's maps and the order of them; its agreement with the release is in systems/rvos."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import tiny
from vos_jax.nn.skip_encoder import BACKBONES, NAMES, SkipEncoder

FEATURES = (8, 8, 4, 2)


@pytest.mark.parametrize("count", [3, 4, 5])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_there_is_a_map_of_each_stride_from_32_on_rounded_up(backbone, count):
    features = (8, 8, 4, 2, 1)[:count]
    module = SkipEncoder(features, backbone, width=0.25)
    frames = jnp.zeros((2, 90, 118, 3))
    variables = jax.eval_shape(module.init, jax.random.key(0), frames)
    maps = jax.eval_shape(module.apply, variables, frames)
    sizes = [(-(-90 // s), -(-118 // s)) for s in (32, 16, 8, 4, 2)][:count]
    assert [x.shape for x in maps] == [
        (2, *size, channels) for size, channels in zip(sizes, features, strict=True)
    ]


def test_projections_are_convolved_with_a_bias_normalised_and_not_rectified():
    module = SkipEncoder(FEATURES, "resnet18", width=0.125)
    frames = jnp.asarray(np.random.default_rng(0).normal(size=(1, 64, 64, 3)), jnp.float32)
    variables = tiny.lively(jax.eval_shape(module.init, jax.random.key(0), frames))
    assert all("bias" in variables["params"][name]["conv"] for name in NAMES[:4])
    run = jax.jit(lambda *x: module.apply(*x, train=True, mutable=["batch_stats"]))
    with tiny.quick_compilation():
        maps, updated = run(variables, frames)
    assert min(float(x.min()) for x in maps) < 0
    for name, x in zip(NAMES[:4], maps, strict=True):
        bias = variables["params"][name]["norm"]["bias"]
        np.testing.assert_allclose(x.mean(axis=(0, 1, 2)), bias, atol=1e-5)
        before = variables["batch_stats"][name]["norm"]["mean"]
        assert np.abs(updated["batch_stats"][name]["norm"]["mean"] - before).max() > 0
