"""Blocks that are computed again in the backward pass: the same numbers, less of them kept."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.tiny import lively
from vos_jax.nn.mobilenet_v2 import InvertedResidual, MobileNetV2
from vos_jax.nn.norm import ConvNorm, SeparableConvNorm
from vos_jax.nn.remat import block, recomputed_blocks
from vos_jax.nn.resnet import Block, ResNet
from vos_jax.nn.xception import XceptionUnit

LIVE = {"norm_eval": False}
BLOCKS = {
    "inverted_residual": (InvertedResidual, dict(features=8, expansion=2, residual=True)),
    "bottleneck": (Block, dict(features=2, bottleneck=True)),
    "xception_unit": (XceptionUnit, dict(features=(8, 8, 8))),
    "conv_norm": (ConvNorm, dict(features=8, kernel=3)),
    "separable_conv_norm": (SeparableConvNorm, dict(features=8)),
}
X = jax.random.normal(jax.random.key(0), (2, 6, 6, 8))


def shapes(model, x, **options):
    return jax.eval_shape(lambda: model.init(jax.random.key(0), x, **options))


@pytest.mark.parametrize("name", BLOCKS)
def test_a_recomputed_block_gives_the_same_result_gradient_and_statistics(name):
    module, fields = BLOCKS[name]
    variables = lively(shapes(module(**fields, **LIVE), X))

    def run(variables, x):
        def loss(params, x):
            whole = {**variables, "params": params}
            y, changed = block(module)(**fields, **LIVE).apply(
                whole, x, True, mutable=["batch_stats"]
            )
            y = y[0] if isinstance(y, tuple) else y
            return jnp.square(y).mean(), changed

        return jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(variables["params"], x)

    expected = jax.jit(run)(variables, X)
    with recomputed_blocks():
        found = jax.jit(lambda *args: run(*args))(variables, X)
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)  # noqa: E731
    jax.tree.map(close, found, expected)
    before = variables["batch_stats"]
    moved = jax.tree.map(lambda a, b: np.any(a != b), found[0][1]["batch_stats"], before)
    assert jax.tree.all(moved)


@pytest.mark.parametrize("network", [MobileNetV2, ResNet])
def test_a_network_of_recomputed_blocks_has_the_same_parameters_and_keeps_less(network):
    x = jnp.zeros((1, 64, 64, 3))
    backbone = network(width=0.1)

    def kept(variables):
        def residuals(params):
            return jax.vjp(lambda p: backbone.apply({**variables, "params": p}, x), params)[1]

        leaves = jax.tree.leaves(jax.eval_shape(residuals, variables["params"]))
        return sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)

    as_usual = lively(shapes(backbone, x))
    bytes_as_usual = kept(as_usual)
    with recomputed_blocks():
        recomputed = lively(shapes(backbone, x))
        jax.tree.map(np.testing.assert_array_equal, recomputed, as_usual)
        assert kept(as_usual) < bytes_as_usual / 2


def test_blocks_are_recomputed_within_the_context_alone():
    assert block(ConvNorm) is ConvNorm
    with pytest.raises(ZeroDivisionError), recomputed_blocks():
        assert block(ConvNorm) is not ConvNorm
        with recomputed_blocks(False):
            assert block(ConvNorm) is ConvNorm
        raise ZeroDivisionError
    assert block(ConvNorm) is ConvNorm
