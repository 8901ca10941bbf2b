"""Every system's programs for GPUs and TPUs, lowered on a machine that has neither.

Tiny models here; `make soak` lowers what the paper presets train and run.
"""

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import tiny
from tests.accelerator import lowered
from vos_jax.inference.setup import build_inference
from vos_jax.inference.streaming import compiled
from vos_jax.ops import platforms
from vos_jax.presets.common import system_config
from vos_jax.systems.build import variable_shapes
from vos_jax.systems.table import systems_of
from vos_jax.train.setup import build_training

PAPER = os.environ.get("VOS_JAX_LOWERED") == "paper"
SIZE = (480, 854) if PAPER else (40, 56)
# what calls back to the host or to a library, and what an accelerator computes slowly or not at all
FOREIGN = ("custom_call", "callback", "f64")


@pytest.fixture(params=systems_of("vos"))
def config(request):
    if not PAPER:
        return tiny.get_config(request.param)
    return system_config(request.param, "paper")


def assert_native(programs: dict[str, str]):
    for platform, text in programs.items():
        assert "stablehlo.convolution" in text
        found = [line for line in text.splitlines() if any(word in line for word in FOREIGN)]
        assert not found, (platform, found[:5])


def test_the_train_step_is_native_to_gpu_and_tpu(config):
    training = build_training(config, restored=True)
    clip = (2, config.data.clip.frames, *config.data.crop)
    batch = {
        "frames": jax.ShapeDtypeStruct((*clip, 3), jnp.float32),
        "labels": jax.ShapeDtypeStruct(clip, jnp.uint8),
        "valid": jax.ShapeDtypeStruct((2, config.data.max_objects), bool),
    }
    assert_native(lowered(training.step, training.state, batch))


def inference_step(config):
    """The jitted step of a frame without given masks, and its arguments."""
    model = build_inference(config).model
    start, step, *_ = compiled(model)
    variables = variable_shapes(model)
    inputs = jax.tree.map(lambda x: x[None], model.preprocess(np.zeros((*SIZE, 3), np.uint8)))
    labels, valid = np.zeros((1, *SIZE), np.uint8), np.ones((1, 2), bool)
    first = variables, inputs, labels, valid
    memory, *_ = jax.eval_shape(lambda *x: start(*x, num_references=1, size=SIZE), *first)
    return step, (variables, memory, inputs, None, None)


def test_the_inference_step_is_native_to_gpu_and_tpu(config):
    step, arguments = inference_step(config)
    assert_native(lowered(step, *arguments, size=SIZE))


def test_the_models_precision_and_bytes_reach_every_matching_and_read(config, monkeypatch):
    if "precision" not in config.model:
        pytest.skip("a system that neither matches nor reads")
    made, make_plans = [], platforms.make_plans

    def recorded(cpu, fitting, kernel_bytes, precision, dtype):
        made.append((kernel_bytes, precision))
        return make_plans(cpu, fitting, kernel_bytes, precision, dtype)

    monkeypatch.setattr(platforms, "make_plans", recorded)
    config.model.update({"precision": "x3", "kernel_bytes": 2**20})
    step, arguments = inference_step(config)
    jax.eval_shape(lambda *x: step(*x, size=SIZE), *arguments)
    assert set(made) == {(2**20, "x3")}
