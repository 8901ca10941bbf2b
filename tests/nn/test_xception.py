"""Xception-65: what the parity test of DeepLabv3+ does not cover."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vos_jax.nn.xception import Xception65, XceptionUnit


def test_dilated_output_holds_the_strided_one_at_every_second_pixel():
    shapes = jax.eval_shape(Xception65().init, jax.random.key(0), jnp.zeros((1, 33, 33, 3)))
    rng = np.random.default_rng(0)

    def draw(leaf):
        if len(leaf.shape) == 1:
            return rng.uniform(0.5, 1.0, leaf.shape).astype(np.float32)
        spread = np.sqrt(1.6 / np.prod(leaf.shape[:-1]))
        return spread * rng.standard_normal(leaf.shape, np.float32)

    variables = jax.tree.map(draw, shapes)
    x = rng.normal(size=(1, 33, 47, 3)).astype(np.float32)
    (low, strided), (same_low, dense) = (
        jax.jit(Xception65(output_stride=s).apply)(variables, x) for s in (16, 8)
    )
    assert strided.shape == (1, 3, 3, 2048) and dense.shape == (1, 5, 6, 2048)
    assert low.shape == (1, 9, 12, 256)
    scale = np.abs(strided).max()
    np.testing.assert_allclose(dense[:, ::2, ::2], strided, atol=1e-4 * scale, rtol=0)
    np.testing.assert_allclose(same_low, low, atol=1e-5)


def test_shortcut_sees_the_input_before_its_relu():
    """With all scales 0 only the shortcut is left."""
    unit = XceptionUnit((4, 4, 4), shortcut="sum")
    x = np.linspace(-1, 1, 64, dtype=np.float32).reshape(1, 4, 4, 4)
    variables = unit.init(jax.random.key(0), x)
    silent = jax.tree_util.tree_map_with_path(
        lambda path, leaf: 0 * leaf if path[-1].key == "scale" else leaf, variables
    )
    np.testing.assert_array_equal(unit.apply(silent, x)[0], x)


def test_other_output_stride_is_refused():
    with pytest.raises(ValueError, match="expected 8 or 16, found 32"):
        Xception65(output_stride=32).init(jax.random.key(0), jnp.zeros((1, 33, 33, 3)))
