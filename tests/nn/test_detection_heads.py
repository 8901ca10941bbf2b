"""Heads of detectors: order of outputs, and the transposed convolution as a product."""

import jax
import jax.numpy as jnp
import numpy as np

from tests.tiny import lively
from vos_jax.nn.detection_heads import BoxHead, Doubling, MaskHead, RPNHead, TrackHead


def apply(module, *inputs):
    variables = lively(jax.eval_shape(module.init, jax.random.key(0), *inputs))
    return jax.jit(module.apply)(variables, *inputs), variables["params"]


def test_anchors_of_a_cell_stand_together_row_by_row():
    x = jnp.float32(np.random.default_rng(0).normal(size=(2, 3, 4, 5)))
    (logits, deltas), _ = apply(RPNHead(5, anchors=2), x)
    assert logits.shape == (2, 24) and deltas.shape == (2, 24, 4)
    changed = apply(RPNHead(5, anchors=2), x.at[0, 2, 3].add(1.0))[0][0] != logits
    cells = changed.reshape(2, 3, 4, 2)
    assert cells[0, 1:, 2:].any() and not cells[0, 0].any() and not cells[0, :, :2].any()
    assert not cells[1].any()


def test_doubling_is_the_transposed_convolution():
    x = jnp.float32(np.random.default_rng(1).normal(size=(3, 4, 5, 6)))
    found, params = apply(Doubling(7), x)
    expected = jnp.zeros((3, 8, 10, 7))
    for i in (0, 1):
        for j in (0, 1):
            part = jnp.einsum("nhwc,cd->nhwd", x, params["kernel"][:, i, j], precision="highest")
            expected = expected.at[:, i::2, j::2].set(part)
    np.testing.assert_allclose(found, expected + params["bias"], atol=1e-5)


def test_heads_take_any_leading_axes():
    x = jnp.float32(np.random.default_rng(2).normal(size=(2, 3, 7, 7, 4)))
    (logits, deltas), _ = apply(BoxHead(8, 5), x)
    assert logits.shape == (2, 3, 5) and deltas.shape == (2, 3, 5, 4)
    assert apply(TrackHead(8), x)[0].shape == (2, 3, 8)
    assert apply(MaskHead(8, 5, depth=2), x[0])[0].shape == (3, 14, 14, 5)


def test_embeddings_may_be_negative():
    """There is no activation after the last layer."""
    x = jnp.float32(np.random.default_rng(3).normal(size=(4, 7, 7, 4)))
    found, _ = apply(TrackHead(8), x)
    assert (found < 0).any() and (found > 0).any()
