"""The quick preset of FEELVOS, shrunk to runs of seconds: a config file for tests."""

import contextlib

import jax
import numpy as np
from ml_collections import ConfigDict

from vos_jax.configs.feelvos import get_config as full_config
from vos_jax.systems.feelvos.model import FEELVOS, Features
from vos_jax.train.optim import map_with_path

MODEL = {"width": 0.1, "decoder_channels": 8, "embedding_dim": 6, "window": 3}


def get_config() -> ConfigDict:
    """Four steps with two clips each, then two clips of four frames to evaluate.

    Everything random is on: dropout, sampling of reference pixels, live BatchNorm, an average.
    Most of the backbone is frozen, which spares compiling its gradient.
    """
    config = full_config("quick").copy_and_resolve_references()
    config.model.update({**MODEL, "dropout": 0.1, "samples": 16})
    config.data.update({"crop": (48, 48), "max_objects": 2, "workers": 2})
    synthetic = {"kind": "synthetic", "videos": 3, "frames": 5}
    config.data.train = ConfigDict({"synthetic": {**synthetic, "split": "train"}})
    short = {**synthetic, "videos": 2, "frames": 4}
    config.data.eval = ConfigDict({"synthetic": {**short, "split": "test"}})
    config.train.update({"steps": 4, "batch": 2, "ema": 0.5, "save_steps": 0})
    config.optim.steps = 10  # a run of fewer steps is then the beginning of a longer one
    config.optim.freeze = (r"backbone/features_(\d|1[0-6])/",)
    config.inference.slots = 2
    config.eval.every = 0
    config.log.every = 1
    return config


@contextlib.contextmanager
def quick_compilation():
    """Programs compiled in here run slower and compile in half the time."""
    jax.config.update("jax_disable_most_optimizations", True)
    try:
        yield
    finally:
        jax.config.update("jax_disable_most_optimizations", False)


def lively(variables: dict) -> dict:
    """Variables whose head passes its input on; fresh ones give the same logits everywhere."""

    def scaled(path, kernel):
        if not path.startswith("head/") or "depthwise" in path or not path.endswith("kernel"):
            return kernel
        return np.asarray(kernel * np.sqrt(2 / kernel.shape[2]) / np.std(kernel))

    params = map_with_path(scaled, jax.device_get(variables["params"]))
    return {**jax.device_get(variables), "params": params}


class Encoded(FEELVOS):
    """A FEELVOS whose inputs are features and embeddings, one after the other in the channels.

    Its only variables are the head's; so it compiles quickly, and a gradient with respect to its
    inputs is what the backbone would receive.
    """

    def encode(self, inputs: jax.Array, train: bool = False) -> Features:
        split = self.decoder_channels
        shared, embedding = inputs[..., :split], inputs[..., split:]
        return Features(shared.astype(self.dtype), embedding)
