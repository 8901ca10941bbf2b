"""Runs whose examples are of several kinds."""

import numpy as np
import pytest

from vos_jax.data.pipeline import Examples
from vos_jax.data.sources import Source
from vos_jax.data.stages import Alternating, Staged, training_examples
from vos_jax.data.synthetic import synthetic_videos
from vos_jax.presets import common

BATCH = 2


def examples(**options):
    sources = [Source("synthetic", synthetic_videos("train", 4))]
    given = dict(frames=3, crop=(32, 48), max_objects=3, seed=1, groups=((0, 1, 2),))
    return Examples(sources, **{**given, **options})


def assert_same(one, other):
    assert one.keys() == other.keys()
    for name, value in one.items():
        np.testing.assert_array_equal(value, other[name])


@pytest.fixture(scope="module")
def kinds():
    return examples(choose="still"), examples(choose="ordered", max_gap=2)


def test_two_stages_are_one_sequence_of_examples(kinds):
    first, second = kinds
    staged = Staged(first, 5, second)
    assert_same(staged.example(4), first.example(4))
    assert_same(staged.example(5), second.example(0))
    assert_same(staged.example(9), second.example(4))


def test_every_so_many_steps_one_draws_from_the_other_kind(kinds):
    first, second = kinds
    turns = Alternating(first, 3, second, BATCH)
    rows = [turns.example(i) for i in range(8 * BATCH)]
    taken = {id(first): 0, id(second): 0}
    for step in range(8):
        source = first if step % 3 == 0 else second
        for row in range(BATCH):
            expected = source.example(taken[id(source)])
            taken[id(source)] += 1
            assert_same(rows[step * BATCH + row], expected)


@pytest.mark.parametrize("combine", [Staged, lambda a, n, b: Alternating(a, n, b, BATCH)])
def test_kinds_of_different_form_are_refused(combine, kinds):
    with pytest.raises(ValueError, match="examples of the main stage's shapes.*max_objects settle"):
        combine(examples(max_objects=2), 5, kinds[1])


def test_a_config_says_which_kinds_there_are_and_when():
    config = common.new_config("stm")
    common.use_synthetic(config)
    config.data.update({"crop": (32, 48), "max_objects": 3})
    config.train.batch = BATCH
    plain = training_examples(config)
    still = {"clip": {**config.data.clip.to_dict(), "choose": "still"}}
    config.data.alternate = {"every": 2, **still}
    config.data.pretrain = {"steps": 1, "flip": 0.0}
    found = training_examples(config)
    config.data.pretrain = {"steps": 0}
    turns = training_examples(config)
    for i in range(4 * BATCH):
        assert_same(found.example(BATCH + i), turns.example(i))
    assert np.ptp(turns.example(0)["source_index"]) == 0  # a still
    assert_same(turns.example(BATCH), plain.example(0))
    assert found.bad_clips == 0
