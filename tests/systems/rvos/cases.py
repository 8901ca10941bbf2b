"""RVOS with the weights of its fixtures, and the frames of a case through it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from tests.fixtures import golden_parameters, load_spec
from tests.tiny import quick_compilation
from vos_jax.systems.build import variable_shapes
from vos_jax.systems.rvos.model import RVOS
from vos_jax.systems.rvos.official import from_official

TASKS = {"oneshot": True, "zeroshot": False}


def official_arrays(task: str) -> dict[str, np.ndarray]:
    """All official arrays of the encoder and of the task's decoder, by the weight rule."""
    spec = load_spec("rvos")
    params = spec["params_encoder"] + spec[f"params_decoder_{task}"]
    return golden_parameters({**spec, "params": params})


def released_model(task: str, slots: int, mode: str = "st") -> RVOS:
    """The released network, for frames as they are."""
    return RVOS(one_shot=TASKS[task], mode=mode, proposals=slots, size=(0, 0))


@functools.cache
def released_variables(task: str) -> dict:
    """The official arrays, passed through the importer."""
    return from_official(official_arrays(task), variable_shapes(released_model(task, 3))).variables


@functools.cache
def encoder(task: str):
    """Function of frames [B, H, W, 3] -> features and the backbone's maps, the finest first."""
    model, variables = released_model(task, 3), released_variables(task)

    @jax.jit
    def run(variables, frames):
        features, inner = model.apply(
            variables,
            frames,
            method=model.encode,
            capture_intermediates=lambda module, name: module.name in ("bn1", "backbone"),
            mutable=["intermediates"],
        )
        backbone = inner["intermediates"]["encoder"]["backbone"]
        first = jax.nn.relu(backbone["bn1"]["__call__"][0])
        return features, (first, *backbone["__call__"][0])

    def encoded(frames):
        with quick_compilation():
            return run(variables, jnp.asarray(frames))

    return encoded
