"""Convolution with group normalisation, and the pyramid made of it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vos_jax.nn.fpn import GroupNormFPN
from vos_jax.nn.gated import gated
from vos_jax.nn.group_norm import ConvGroupNorm, group_norm


def test_groups_have_mean_zero_and_variance_one_for_each_map_alone():
    rng = np.random.default_rng(0)
    x = 100 + rng.normal(size=(2, 5, 6, 8)) * np.array([1, 20])[:, None, None, None]
    module = group_norm(4, "norm")
    x = jnp.asarray(x, jnp.float32)
    found = module.apply(module.init(jax.random.key(0), x), x)
    groups = np.asarray(found).reshape(2, 30, 4, 2)
    np.testing.assert_allclose(groups.mean(axis=(1, 3)), 0, atol=1e-4)
    np.testing.assert_allclose(groups.var(axis=(1, 3)), 1, atol=1e-3)


@pytest.mark.parametrize(
    ("fields", "shape"),
    [
        ({"kernel": 3, "strides": 2}, (3, 4)),
        ({"kernel": 3, "dilation": 4}, (5, 7)),
        ({"strides": 2}, (3, 4)),
        ({"kernel": 3, "depthwise": True, "use_bias": True}, (5, 7)),
    ],
)
def test_output_has_every_strides_th_pixel(fields, shape):
    module = ConvGroupNorm(6, groups=2, **fields)
    found = jax.eval_shape(module.init_with_output, jax.random.key(0), jnp.zeros((2, 5, 7, 6)))
    assert found[0].shape == (2, *shape, 6)
    assert ("bias" in found[1]["params"]["conv"]) == fields.get("use_bias", False)


@pytest.mark.parametrize(
    "fields",
    [{}, {"strides": 2, "use_bias": True}, {"kernel": 3}, {"depthwise": True}],
)
def test_gate_equals_a_gated_input(fields):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(2, 5, 7, 6)), jnp.float32)
    gate = jnp.asarray(rng.uniform(0, 2, (2, 6)), jnp.float32)
    module = ConvGroupNorm(6, groups=2, **fields)
    variables = module.init(jax.random.key(0), x)
    np.testing.assert_allclose(
        module.apply(variables, x, gate), module.apply(variables, gated(x, gate)), atol=1e-5
    )


def test_pyramid_passes_the_coarse_map_down_unsmoothed():
    """What the finest result depends on: every map; the coarsest depends on its own alone."""
    rng = np.random.default_rng(0)
    sizes = ((9, 13, 4), (5, 7, 6), (3, 4, 8))
    maps = tuple(jnp.asarray(rng.normal(size=(1, *size)), jnp.float32) for size in sizes)
    module = GroupNormFPN(features=8, groups=2)
    variables = module.init(jax.random.key(0), maps)
    expected = module.apply(variables, maps)
    assert [x.shape for x in expected] == [(1, *size[:2], 8) for size in sizes]
    smoothed = jax.tree.map(lambda x: x, variables)
    smoothed["params"]["smooth1"]["conv"]["kernel"] *= -1
    found = module.apply(smoothed, maps)
    np.testing.assert_array_equal(found[0], expected[0])
    assert not np.array_equal(found[1], expected[1])
    changed = module.apply(variables, (maps[0], maps[1], -maps[2]))
    assert not np.array_equal(changed[0], expected[0])
    changed = module.apply(variables, (-maps[0], maps[1], maps[2]))
    np.testing.assert_array_equal(changed[2], expected[2])
