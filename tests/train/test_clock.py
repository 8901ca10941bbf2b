"""The clock of a run, on a time that the test sets."""

import pytest

from vos_jax.train import clock as module


@pytest.fixture
def now(monkeypatch):
    """A list whose only entry is the time, in seconds."""
    time = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: time[0])
    return time


def test_speed_counts_from_the_beginning_of_measuring_and_leaves_out_what_is_paused(now):
    clock = module.Clock()
    now[0] += 50  # compiling
    assert clock.speed(1, 10) == {}
    clock.begin(2)
    now[0] += 4
    with clock.waiting():
        now[0] += 1
    with clock.pause():
        now[0] += 1000
    assert clock.speed(4, 10) == {
        "steps_per_second": 2 / 5,
        "data_wait": 1 / 5,
        "seconds_left": 6 * 5 / 2,
    }
    now[0] += 1
    assert clock.speed(5, 10)["steps_per_second"] == 1  # since the last call
    assert clock.speed(5, 10) == {}


def test_a_line_before_the_first_measured_step_starts_the_window_anew(now):
    clock = module.Clock()
    clock.begin(2)
    now[0] += 30
    assert clock.speed(2, 10) == {}
    now[0] += 2
    assert clock.speed(3, 10)["steps_per_second"] == 1 / 2
