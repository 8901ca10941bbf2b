"""STM's memory in parts on several devices, in one process with 8 fake ones for all tests."""

import numpy as np
import pytest

from tests.eight_devices import run_on_eight_devices


@pytest.fixture(scope="module")
def results(clip, tmp_path_factory):
    folder = tmp_path_factory.mktemp("devices")
    frames, masks = clip
    first, third = np.where(masks[0] == 2, 0, masks[0]), np.where(masks[2] == 1, 0, masks[2])
    np.savez(folder / "in.npz", frames=frames, first=first, third=third)
    run_on_eight_devices("tests.systems.stm.sharded", folder / "in.npz", folder / "out.npz")
    return dict(np.load(folder / "out.npz"))


def test_a_memory_on_eight_devices_gives_the_same_masks(results):
    found, expected = results["probabilities"], results["unspread"]
    np.testing.assert_allclose(found, expected, atol=1e-4)
    np.testing.assert_array_equal(found.argmax(axis=1), expected.argmax(axis=1))
    assert expected[3:, 2].max() > 0.1  # the object that comes with the third frame
    assert np.abs(expected[-1] - expected[-2]).max() > 0.01


def test_views_of_a_memory_on_eight_devices_are_the_same(results):
    plain, spread = results["views"]
    np.testing.assert_allclose(spread, plain, atol=1e-4)


def test_each_device_holds_its_part_of_the_frames_also_once_the_memory_has_grown(results):
    for name in ("keys", "values"):
        assert results[f"{name}_parts"].tolist() == [1 / 8] * 8
        assert results[f"{name}_places"].tolist() == list(range(8))
    assert results["room"] == 16  # 8, and one more frame with given masks, rounded up


def test_a_step_compiles_once_for_each_size_of_memory_with_and_without_masks(results):
    assert results["step"] == 3  # before the memory has grown, with masks when it has, and after it


def test_more_devices_than_there_are_is_refused_with_the_field(results):
    expected = "config.inference.memory_devices: expected at most 8, the cpu devices"
    assert str(results["error"]).startswith(expected) and "found 9" in str(results["error"])
