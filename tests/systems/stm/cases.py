"""A small STM that says something, for several tests."""

from typing import Any

import jax
import numpy as np

from vos_jax.systems.build import build_model, init_variables
from vos_jax.systems.stm.model import STM

TINY = {
    "name": "stm",
    "backbone": "mobilenet_v2",
    "width": 0.1,
    "key_dim": 4,
    "value_dim": 6,
    "decoder_channels": 8,
    "memory_every": 2,
    "length": 6,
}


def tiny_stm() -> tuple[STM, dict[str, Any]]:
    """The model and lively variables: what it says depends on frames, masks and memory."""
    model = build_model(TINY)
    variables = jax.device_get(init_variables(model, jax.random.key(2)))

    def lively(path, x):
        names = {entry.key for entry in path}
        gains = {"mask": 8, "others": 8, "heads": 10, "pred2": 4}
        return x * np.prod([gain for name, gain in gains.items() if name in names])

    params = jax.tree_util.tree_map_with_path(lively, variables["params"])
    return model, {**variables, "params": params}
