"""Slots that no clip of a batch uses."""

import jax
import numpy as np
import pytest

from tests import tiny
from vos_jax.main import training_batches
from vos_jax.train.slots import in_buckets


def batches(*counts):
    for of_batch in counts:
        valid = np.arange(5) < np.array(of_batch)[:, None]
        yield {"valid": valid, "classes": 10 * valid.astype(np.int32), "name": ["a", "b"]}


@pytest.mark.parametrize(
    ("counts", "slots"), [((0, 0), 1), ((1, 0), 1), ((1, 2), 2), ((3, 1), 4), ((2, 5), 5)]
)
def test_a_batch_has_the_slots_of_the_bucket_that_holds_its_objects(counts, slots):
    (whole,), (cut,) = batches(counts), in_buckets(batches(counts))
    assert cut["valid"].shape == cut["classes"].shape == (2, slots)
    np.testing.assert_array_equal(cut["valid"].sum(axis=1), counts)
    np.testing.assert_array_equal(cut["classes"], whole["classes"][:, :slots])
    assert cut["name"] == whole["name"]


def test_closing_closes_what_the_batches_come_from():
    source = batches((1, 1), (2, 2))
    cut = in_buckets(source)
    next(cut)
    cut.close()
    assert next(source, None) is None


def test_a_run_draws_the_same_clips_with_fewer_slots():
    def drawn(slot_buckets):
        config = tiny.get_config("feelvos")
        config.data.max_objects, config.train.slot_buckets = 5, slot_buckets
        return training_batches(config)(0)

    seen = set()
    for expected, found, _ in zip(drawn(False), drawn(True), range(4), strict=False):
        assert expected["valid"].shape[1] == 5
        np.testing.assert_array_equal(found["frames"], expected["frames"])
        np.testing.assert_array_equal(found["labels"], expected["labels"])
        assert found["valid"].sum() == expected["valid"].sum()
        assert found["labels"][found["labels"] < 255].max() <= found["valid"].shape[1]
        seen.add(found["valid"].shape[1])
    assert seen <= {1, 2, 4}  # synthetic clips have three objects at most


def test_several_processes_are_refused(monkeypatch):
    config = tiny.get_config("feelvos")
    config.train.slot_buckets = True
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(ValueError, match="slot_buckets: expected False with several processes"):
        training_batches(config)
