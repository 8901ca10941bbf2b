"""What frames are after their way to the device."""

import numpy as np
import pytest

from vos_jax.data.example import TRANSPORTS, blank, packed
from vos_jax.data.pipeline import Examples, batches
from vos_jax.data.sources import Source
from vos_jax.data.synthetic import synthetic_videos

BOUND = {"float32": 0, "float16": 1 / 16, "uint8": 1 / 2}  # as data/example.py says


@pytest.fixture(scope="module")
def examples():
    sources = [Source("s", synthetic_videos("train", 2))]
    return Examples(sources, frames=3, crop=(64, 80), max_objects=4, seed=3)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_batches_hold_the_transport_dtype_within_its_bound_and_all_else_unchanged(
    transport, examples
):
    stream = batches(examples, 0, 2, transport=transport)
    batch, plain = next(stream), [examples.example(i) for i in range(2)]
    stream.close()
    assert batch["frames"].dtype == transport
    for row in range(2):
        error = np.abs(batch["frames"][row].astype(np.float32) - plain[row]["frames"]).max()
        assert BOUND[transport] / 2 <= error <= BOUND[transport]
        for name in ("labels", "valid", "classes", "source_index"):
            np.testing.assert_array_equal(batch[name][row], plain[row][name])


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_whole_grey_levels_arrive_unchanged_and_are_packed_once(transport):
    levels = np.arange(256, dtype=np.float32)
    one = packed({"frames": levels, "name": "n"}, transport)
    np.testing.assert_array_equal(one["frames"].astype(np.float32), levels)
    again = packed(one, transport)
    assert again["frames"] is one["frames"] and again["name"] == b"n"


def test_what_lies_beyond_the_grey_levels_is_still_near_in_float16():
    values = np.linspace(-400, 400, 10_001, dtype=np.float32)
    found = packed({"frames": values, "name": ""}, "float16")["frames"]
    assert np.abs(found.astype(np.float32) - values).max() <= 1 / 8


def test_an_unknown_transport_is_refused(examples):
    with pytest.raises(ValueError, match=r"transport: expected one of .*'float32'.*got 'int8'"):
        batches(examples, 0, 2, transport="int8")


def test_blank_columns_are_those_of_an_example(examples):
    example, empty = packed(examples.example(0), "uint8"), blank(examples, "uint8")
    assert example.keys() == empty.keys()
    for name in set(example) - {"name"}:
        assert example[name].shape == empty[name].shape
        assert example[name].dtype == empty[name].dtype
