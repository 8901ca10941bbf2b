"""Counting what a train step keeps."""

import jax
import jax.numpy as jnp
import pytest

from tests import tiny
from vos_jax.benchmarks.residuals import residual_bytes


@pytest.fixture(scope="module")
def config():
    return tiny.get_config("feelvos")


def changed(config, **fields):
    config = config.copy_and_resolve_references()
    config.update_from_flattened_dict(fields)
    return config


def test_less_is_kept_with_remat_and_with_bfloat16(config):
    usual = residual_bytes(config)
    frame = 4 * 3 * config.data.clip.frames * config.data.crop[0] * config.data.crop[1]
    assert usual > 2 * frame
    assert residual_bytes(changed(config, **{"train.remat": "blocks"})) < 0.7 * usual
    assert residual_bytes(changed(config, **{"model.dtype": "bfloat16"})) < 0.9 * usual


def test_counting_leaves_no_trace_in_what_is_traced_later(config):
    def conv(x):
        from vos_jax.ops.convolution import conv_general_dilated

        numbers = ("NHWC", "HWIO", "NHWC")
        return conv_general_dilated(x, x, (1, 1), "VALID", dimension_numbers=numbers)

    before = str(jax.make_jaxpr(conv)(jnp.ones((1, 1, 3, 3))))
    residual_bytes(config)
    assert str(jax.make_jaxpr(conv)(jnp.ones((1, 1, 3, 3)))) == before
