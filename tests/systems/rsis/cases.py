"""RSIS with the weights of its fixture, and the frames of the case through it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from tests.fixtures import golden_parameters, load_npz, load_spec
from tests.tiny import quick_compilation
from vos_jax.inference.rollout import begin
from vos_jax.nn.object_decoder import ObjectDecoder
from vos_jax.systems.build import variable_shapes
from vos_jax.systems.rsis.model import RSIS
from vos_jax.systems.rsis.official import from_official

RELEASED = RSIS(proposals=4, size=(0, 0))  # for frames as they are


def official_arrays() -> dict[str, np.ndarray]:
    """All official arrays, by the weight rule."""
    spec = load_spec("rsis")
    return golden_parameters({**spec, "params": spec["params_encoder"] + spec["params_decoder"]})


@functools.cache
def released_variables() -> dict:
    """The official arrays, passed through the importer."""
    return from_official(official_arrays(), variable_shapes(RELEASED)).variables


@functools.cache
def case() -> dict[str, np.ndarray]:
    return load_npz("rsis", "case_a")


@functools.cache
def found():
    """Features of the frames, states of all slots, prediction, masks and scores."""
    model, size = RELEASED, case()["frames_rgb"].shape[1:3]

    @jax.jit
    def run(variables, frames):
        features = model.apply(variables, frames, method=model.encode)
        first = (features, size, None, jnp.ones((len(frames), model.proposals), bool))
        (_, prediction), inner = model.apply(
            variables,
            *first,
            method=begin,
            capture_intermediates=lambda module, name: isinstance(module, ObjectDecoder),
            mutable=["intermediates"],
        )
        ((_, states),) = inner["intermediates"]["decoder"]["__call__"]
        answers = {
            "maps": model.maps(prediction),
            "instances": model.apply(variables, prediction, size, method=model.instances),
            "labels": model.apply(variables, prediction, size, method=model.labels),
        }
        return features, states, prediction, answers

    with quick_compilation():
        return jax.device_get(run(released_variables(), jnp.asarray(case()["frames_rgb"])))
