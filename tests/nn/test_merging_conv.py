import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vos_jax.nn.merging_conv import MergingConv
from vos_jax.ops.resize import resize_bicubic, resize_bilinear


@pytest.mark.parametrize(
    "method, resize", [("bilinear", resize_bilinear), ("bicubic", resize_bicubic)]
)
def test_equals_a_layer_on_both_maps_side_by_side_with_its_parameters(method, resize):
    rng = np.random.default_rng(0)
    coarse = jnp.asarray(rng.normal(size=(2, 4, 5, 6)), jnp.float32)
    fine = jnp.asarray(rng.normal(size=(2, 13, 17, 3)), jnp.float32)
    layer = nn.Conv(7, (3, 3), padding=1, use_bias=False)
    both = jnp.concatenate([resize(coarse, (13, 17)), fine], axis=-1)
    variables = layer.init(jax.random.key(0), both)
    merging = MergingConv(7, resize=method)
    assert jax.tree.all(
        jax.tree.map(np.array_equal, merging.init(jax.random.key(0), coarse, fine), variables)
    )
    np.testing.assert_allclose(
        merging.apply(variables, coarse, fine), layer.apply(variables, both), atol=1e-5
    )


def test_bfloat16_in_and_out():
    coarse, fine = jnp.ones((1, 2, 2, 3)), jnp.ones((1, 4, 4, 2))
    layer = MergingConv(4, dtype=jnp.bfloat16)
    variables = layer.init(jax.random.key(0), coarse, fine)
    assert variables["params"]["kernel"].dtype == jnp.float32
    assert layer.apply(variables, coarse, fine).dtype == jnp.bfloat16
