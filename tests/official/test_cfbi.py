"""CFBI's checkpoints: every name finds its place, and what does not fit is named."""

import functools

import jax
import numpy as np
import pytest

from tests.fixtures import load_spec
from tests.models.cfbi_cases import mobilenet_spec, official_arrays
from vos_jax.models import variable_shapes
from vos_jax.models.cfbi import CFBI, CFBIPlus
from vos_jax.official.cfbi import from_official
from vos_jax.train.optim import fits, parameter_paths

SYSTEMS = {"cfbi": CFBI, "cfbiplus": CFBIPlus}
FROZEN = (r"^deeplab/.*(norm|bn1)/",)  # the release keeps them as buffers


@functools.cache
def _target(system):
    return variable_shapes(SYSTEMS[system]())


@pytest.mark.parametrize(("system", "stored"), [("cfbi", 753), ("cfbiplus", 762)])
def test_every_official_array_is_used_once(system, stored):
    arrays = official_arrays(system)
    variables, unused = from_official(arrays, _target(system))
    assert unused == [] and len(jax.tree.leaves(variables)) == stored
    assert jax.tree.map(np.shape, variables) == jax.tree.map(lambda x: x.shape, _target(system))


@pytest.mark.parametrize("system", ["cfbi", "cfbiplus"])
def test_norms_of_the_deeplab_are_all_that_the_release_does_not_train(system):
    params = _target(system)["params"]
    leaves = zip(parameter_paths(params), jax.tree.leaves(params), strict=True)
    trained = [leaf.size for path, leaf in leaves if not fits(FROZEN, path)]
    shapes = dict(load_spec(system)["params"])
    names = load_spec(system)["trainable"]
    assert len(trained) == len(names)
    assert sum(trained) == sum(int(np.prod(shapes[name])) for name in names)


def test_mobilenet_stores_most_blocks_under_several_names():
    spec = mobilenet_spec()
    variables, unused = from_official(
        official_arrays("cfbi", spec), variable_shapes(CFBI(backbone="mobilenet_v2"))
    )
    assert unused == []
    assert len(jax.tree.leaves(variables)) == len(spec["params"]) - len(spec["aliases"])
