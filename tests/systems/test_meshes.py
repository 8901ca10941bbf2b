"""Every system trains on any mesh as on one device, with the programs that GPUs get.

Losses, gradients, ten steps in float64, and that with FSDP devices send each other parameters and
no activations. Here one system that matches and one that reads, on a mesh of both axes; `make soak`
has all.
"""

import json
import os

import numpy as np
import pytest

from tests.eight_devices import eight_devices
from tests.systems.meshes import ROWS
from vos_jax.systems.table import systems_of

ALL = os.environ.get("VOS_JAX_MESHES") == "all"
MESHES = ("8x1", "2x4", "1x8") if ALL else ("2x4",)
CHECKED = tuple(systems_of("vos")) if ALL else ("feelvos", "stm")
ROUNDING = 1e-5  # sums of float32 in another order, where nothing flips
EXACT = 1e-8  # of float64


@pytest.fixture(scope="module", params=CHECKED)
def found(request):
    """What the 8 devices of a system's process found."""
    with eight_devices("tests.systems.meshes", request.param, *MESHES) as finished:
        return json.loads(finished())


@pytest.mark.parametrize("what", ["losses", "gradients"])
@pytest.mark.parametrize("mesh", MESHES)
def test_a_mesh_changes_no_more_than_a_millionth_of_the_frames_on_one_device(found, mesh, what):
    """Winners, labels and ReLUs flip by either; a wrong mean or sum would change far more."""
    assert min(found["1x1"]["losses"]) > 0.01
    assert found[mesh][what] < max(found["1x1"]["changed"][what], ROUNDING)


@pytest.mark.parametrize("mesh", [mesh for mesh in MESHES if not mesh.endswith("x1")])
def test_with_fsdp_devices_gather_parameters_alone_and_send_little_more_than_them(found, mesh):
    parameters = {_sides(shape) for shape in found["parameters"]}
    sent = found[mesh]["sent"]
    moved = {_sides(shape) for kind, shape in sent if kind != "all-reduce"}
    assert moved <= parameters | {(ROWS,)}, moved - parameters  # the losses of all rows
    assert any(kind == "all-gather" for kind, _ in sent)
    elements = sum(int(np.prod(shape)) for shape in found["parameters"])
    assert sum(int(np.prod(shape)) for _, shape in sent) <= 3 * elements


@pytest.mark.parametrize("system", systems_of("vos") if ALL else ("feelvos",))
def test_ten_steps_in_float64_have_the_losses_of_one_device(system):
    with eight_devices("tests.systems.meshes_float64", system, *MESHES) as finished:
        losses = {mesh: np.array(found) for mesh, found in json.loads(finished()).items()}
    single = losses.pop("1x1")
    assert single.shape[0] == 10 and (np.ptp(single, axis=0) > 1e3 * EXACT * single[0]).all()
    for mesh, found in losses.items():
        assert np.abs(found / single - 1).max() < EXACT, mesh


def _sides(shape):
    """Without those of length 1, in any order: compilers turn arrays before they send them."""
    return tuple(sorted(n for n in shape if n > 1))
