"""The trace of some steps, where it begins, ends and lies."""

import pytest

from tests.train.toy import batches_of, run, toy_config
from vos_jax.train import profile as module
from vos_jax.train.loop import NonFiniteLoss
from vos_jax.train.profile import Profile


@pytest.fixture
def traces(monkeypatch):
    """What jax.profiler is asked, in order; nothing is traced."""
    asked = []
    monkeypatch.setattr(module.jax.profiler, "start_trace", lambda folder: asked.append(folder))
    monkeypatch.setattr(module.jax.profiler, "stop_trace", lambda: asked.append("stop"))
    return asked


def walk(profile, steps, asked):
    """Settling adds "settled" to what is asked, a step its number from 1."""
    with profile:
        for step in steps:
            profile.before(step, lambda: asked.append("settled"))
            asked.append(step + 1)
            profile.after(step + 1, lambda: asked.append("settled"))


def test_the_given_steps_lie_within_the_trace_and_no_step_is_in_flight_at_its_ends(
    traces, tmp_path, capsys
):
    walk(Profile((3, 4), tmp_path, range(5)), range(5), traces)
    folder = str(tmp_path / "profile")
    assert traces == [1, 2, "settled", folder, 3, 4, "settled", "stop", 5]
    assert f"profile of steps 3 to 4 in {folder}" in capsys.readouterr().err


def test_without_steps_nothing_happens(traces, tmp_path):
    walk(Profile((), tmp_path, range(3)), range(3), traces)
    assert traces == [1, 2, 3]


@pytest.mark.parametrize("steps", [(1, 2), (2, 4), (5, 9)])
def test_steps_that_a_run_does_not_take_are_told(steps, traces, tmp_path, capsys):
    walk(Profile(steps, tmp_path, range(2, 8)), range(2, 8), traces)
    assert traces == [3, 4, 5, 6, 7, 8]
    said = f"config.profile_steps={steps}: this run takes the steps 3 to 8; nothing is profiled"
    assert said in capsys.readouterr().err


def test_a_trace_that_has_begun_is_written_where_the_run_ends_early(tmp_path):
    config = toy_config()
    config.profile_steps = (2, 6)
    with pytest.raises(NonFiniteLoss):
        run(config, tmp_path, batches_of(4, poison=13))
    assert list((tmp_path / "profile").glob("**/*.xplane.pb"))
