import json

import jax
import numpy as np
import pytest

from tests.eight_devices import run_on_eight_devices
from tests.train.toy import toy_config
from vos_jax.train.partition import build_mesh, shard_batch


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """What tests/train/devices.py measures on 8 fake devices, in one process for all tests."""
    folder = tmp_path_factory.mktemp("devices")
    printed = run_on_eight_devices("tests.train.devices", folder)
    return json.loads(printed.splitlines()[-1])


@pytest.mark.parametrize("mesh", ["8x1", "2x4", "1x8"])
def test_eight_devices_train_as_one_does(measured, mesh):
    assert measured["devices"] == 8
    assert measured[mesh] < 3e-6
    assert measured[f"losses {mesh}"] < 1e-5
    assert measured[f"compilations {mesh}"] == 1


def test_fsdp_splits_parameters_and_slots(measured):
    assert measured["parameter part"] == measured["slot part"] == 1 / 8


def test_accumulation_is_the_same_on_four_devices(measured):
    assert measured["accumulated 4 = 1"] < 3e-6


def test_one_process_holds_all_rows(measured):
    assert measured["local rows"] == list(range(16))


@pytest.mark.parametrize("mesh", ["1x1", "2x2", "8x1"])
def test_checkpoint_restores_onto_other_devices_exactly(measured, mesh):
    assert measured[f"restored on {mesh}"] == 0
    assert measured[f"shardings on {mesh}"]


@pytest.mark.parametrize("mesh", ["2x1", "1x1", "1x2", "2x4"])
def test_a_run_that_was_saved_on_eight_devices_goes_on_elsewhere_alike(measured, mesh):
    losses = measured["moved"]
    assert len(losses["8x1"]) == 3
    np.testing.assert_allclose(losses[mesh], losses["8x1"], rtol=1e-5)


def test_the_gradient_on_a_mesh_is_that_of_pmap(measured):
    assert measured["gradient"] > 0.1
    assert measured["pmap"] < 3e-6


def test_sizes_that_do_not_fit_are_refused_with_numbers(measured):
    errors = measured["errors"]
    assert errors["rest"] == "8x1"
    for case in ("uneven mesh", "large mesh"):
        assert "does not fit the 8 devices" in errors[case], case
    assert "config.train.batch=12" in errors["batch"]
    assert "a multiple of 8 such as 16" in errors["batch"]
    assert "config.train.accumulate=3" in errors["accumulate"]
    assert "'x' has 6 rows" in errors["rows"] and "8 devices" in errors["rows"]
    assert errors["placed"] == "True"


def test_two_rests_or_a_zero_are_refused():
    for data, fsdp in ((-1, -1), (0, 1), (-2, 1)):
        config = toy_config().mesh
        config.update({"data": data, "fsdp": fsdp})
        with pytest.raises(ValueError, match="at most one may be -1"):
            build_mesh(config)


def test_batch_keeps_numbers_and_drops_names():
    batch = {"x": np.ones([2, 3], np.float32), "valid": np.ones([2], bool), "name": ["a", "b"]}
    batch |= {"ids": np.array([[1], [2]], object), "given": [[1, 2], [3]]}
    arrays = shard_batch(batch, build_mesh(toy_config().mesh))
    assert sorted(arrays) == ["valid", "x"]
    assert all(isinstance(value, jax.Array) for value in arrays.values())


def test_the_line_of_devices_says_how_many_are_used_and_what_leaves_the_others(measured):
    assert measured["lines"] == {
        "all": "1 process, 8 of 8 devices (cpu)",
        "without a mesh": "1 process, 8 devices (cpu)",
        "some": "1 process, 4 of 8 devices (cpu); config.mesh.data=2 x config.mesh.fsdp=2 leaves"
        " 4 unused, data=-1 takes them",
    }
