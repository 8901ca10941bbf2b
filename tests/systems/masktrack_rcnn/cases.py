"""MaskTrack R-CNN with the weights of its fixtures."""

import functools

import jax

from tests.fixtures import golden_parameters, load_npz, load_spec
from vos_jax.systems.masktrack_rcnn.model import MaskTrackRCNN
from vos_jax.systems.masktrack_rcnn.official import from_official

CLOSE = 1e-4  # of an array's largest magnitude


def released_model() -> MaskTrackRCNN:
    """Of frames as large as the fixtures'; a memory that they do not fill."""
    return MaskTrackRCNN(image_scale=(160, 96), capacity=32)


@functools.cache
def shapes() -> dict:
    """Of the model's variables."""
    model, frame = released_model(), load_npz("masktrack", "case_a")["frames_rgb"][0]
    inputs = jax.tree.map(lambda x: x[None], model.preprocess(frame))
    return jax.eval_shape(model.init, jax.random.key(0), inputs)


def released_variables(seed: int) -> dict:
    """The official arrays of that seed, passed through the importer."""
    return from_official(golden_parameters(load_spec("masktrack"), seed), shapes()).variables
