"""COSNet with the weights of its fixtures."""

import functools

import numpy as np

from tests.fixtures import golden_parameters, load_spec
from vos_jax.systems.build import variable_shapes
from vos_jax.systems.cosnet.model import COSNet
from vos_jax.systems.cosnet.official import from_official


def official_arrays() -> dict[str, np.ndarray]:
    """All official arrays by the weight rule."""
    return golden_parameters(load_spec("cosnet"))


@functools.cache
def released_variables() -> dict:
    """The official arrays, passed through the importer."""
    return from_official(official_arrays(), variable_shapes(COSNet())).variables


def released_model(**fields) -> COSNet:
    """The released network, for frames as they are."""
    return COSNet(size=(0, 0), **fields)
