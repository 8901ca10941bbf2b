"""Which frames the memory of STM holds: the released rule, eviction, given frames."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vos_jax.systems.memory_bank import Rule, empty, give, readable, slots_needed, write

write_jit = jax.jit(write, static_argnames="rule")


def frame(t, batch=1, objects=2):
    """Keys and values of frame t, told apart by their value."""
    return jnp.full((batch, objects, 3, 2), t + 1.0), jnp.full((batch, objects, 3, 4), -t - 1.0)


def begin(slots, rule, batch=1):
    known = jnp.ones((batch, 2), bool)
    bank = empty(*frame(0, batch), slots)
    return give(write_jit(bank, *frame(0, batch), known, rule=rule), known, rule)


def seen(bank, rule):
    """Numbers (from 0) of the frames that the next one may look at, by what the slots hold."""
    slots = np.flatnonzero(readable(bank, rule)[0, 0])
    keys, values = np.asarray(bank.keys[0, :, slots]), np.asarray(bank.values[0, :, slots])
    assert (keys == keys[:, :1, :1, :1]).all() and (values == -keys[..., :1]).all()
    return sorted(int(k) - 1 for k in keys[:, 0, 0, 0])


def history(length, slots, rule):
    """What each of the frames 1..length-1 may look at."""
    bank, known, seen_by = begin(slots, rule), jnp.ones((1, 2), bool), []
    for t in range(1, length):
        seen_by.append(seen(bank, rule))
        bank = write_jit(bank, *frame(t), known, rule=rule)
    return seen_by


@pytest.mark.parametrize(("length", "every"), [(2, 5), (6, 2), (7, 2), (13, 5), (9, 1), (8, 0)])
def test_with_the_slots_it_needs_the_memory_is_the_released_one(length, every):
    rule = Rule(every=every)
    for t, frames in enumerate(history(length, slots_needed(length, every), rule), start=1):
        kept = {i for i in range(t - 1) if i == 0 or (every and i % every == 0)}
        assert frames == sorted(kept | {t - 1})


def test_one_slot_less_than_needed_evicts_a_frame():
    rule = Rule(every=2)
    slots = slots_needed(9, 2)
    assert history(9, slots, rule) != history(9, slots - 1, rule)


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (Rule(previous=False, every=0), [0]),
        (Rule(first=False, every=0), [6]),
        (Rule(every=0), [0, 6]),
        (Rule(previous=False, every=3), [0, 3, 6]),
    ],
)
def test_rows_of_the_papers_memory_ablation(rule, expected):
    assert history(8, 4, rule)[-1] == expected


def test_oldest_leaves_the_first_and_the_latest_kept_frames():
    assert history(24, 5, Rule(every=2, eviction="oldest"))[-1] == [0, 16, 18, 20, 22]


def test_thin_keeps_first_and_previous_and_spreads_the_others_over_the_past():
    length, slots = 200, 8
    kept = np.array(history(length, slots, Rule(every=5, eviction="thin"))[-1])
    assert kept[0] == 0 and kept[-1] == length - 2 and len(kept) == slots
    gaps = np.diff(kept[:-1])
    assert gaps.max() <= 2 * gaps.min() + 5  # oldest-first would leave one gap of 160
    assert kept[1] < 60 and kept[-2] > 150


def test_frames_with_given_masks_stay_and_know_only_the_objects_given_so_far():
    rule = Rule(every=0)
    bank = begin(4, rule, batch=2)
    bank = bank.replace(known=bank.known.at[:, 1].set(False))
    for t in range(1, 6):
        known = jnp.array([[True, t > 3], [True, False]])
        bank = write_jit(bank, *frame(t, batch=2), known, rule=rule)
        if t == 3:
            bank = give(bank, jnp.array([[False, True], [False, False]]), rule)
    numbers, look = np.asarray(bank.number) - 1, np.asarray(readable(bank, rule))
    assert set(numbers[0][look[0, 0]]) == {0, 3, 5} and set(numbers[0][look[0, 1]]) == {3, 5}
    # the other video of the batch was given nothing
    assert set(numbers[1][look[1, 0]]) == {0, 5} and not look[1, 1].any()


def padded_like(x, target):
    return jnp.pad(x, [(0, m - n) for n, m in zip(x.shape, target.shape, strict=True)])


def test_a_bank_grown_by_zero_padding_goes_on_as_a_larger_one():
    rule = Rule(every=1)
    small, large, known = begin(3, rule), begin(6, rule), jnp.ones((1, 2), bool)
    for t in range(1, 6):
        if t == 3:
            small = jax.tree.map(padded_like, small, large)
        small = write_jit(small, *frame(t), known, rule=rule)
        large = write_jit(large, *frame(t), known, rule=rule)
    assert jax.tree.all(jax.tree.map(np.array_equal, small, large))


def test_any_length_runs_through_one_compilation():
    step = jax.jit(functools.partial(write, rule=Rule()))
    bank, known = begin(3, Rule()), jnp.ones((1, 2), bool)
    for t in range(1, 30):
        bank = step(bank, *frame(t), known)
    assert step._cache_size() == 1


def test_parts_of_a_bank_are_rounded_up_and_filled_evenly():
    rule, known = Rule(every=1), jnp.ones((1, 2), bool)
    bank = empty(*frame(0), 7, parts=4)
    assert bank.number.shape == (1, 8)
    for t in range(9):
        counts = (np.asarray(bank.number) > 0).reshape(4, 2).sum(axis=1)
        assert counts.sum() == t and counts.max() - counts.min() <= 1
        if t < 8:
            bank = write_jit(bank, *frame(t), known, rule=rule)
    assert seen(bank, rule) == list(range(8))
