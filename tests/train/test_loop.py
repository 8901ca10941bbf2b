import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from tests.train.toy import batches_of, run, toy_config
from vos_jax.checkpoint_folder import import_variables
from vos_jax.train.checkpoint import Checkpoints
from vos_jax.train.loop import NonFiniteLoss, Preempted

ROOT = Path(__file__).parents[2]


def lines(workdir) -> list[dict]:
    return [json.loads(line) for line in (workdir / "logs/metrics.jsonl").read_text().splitlines()]


def assert_identical(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


def interrupted(batches, before, number):
    """The same batches, with a signal before the given batch."""

    def wrapped(start):
        for i, batch in enumerate(batches(start)):
            if i == before:
                signal.raise_signal(number)
            yield batch

    return wrapped


def first_value(variables) -> float:
    return float(np.asarray(jax.tree.leaves(variables["params"])[0]).flat[0])


def constant(variables, step):
    return {"J&F": 0.5}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("whole")
    asked = []

    def evaluate(variables, step):
        asked.append((step, first_value(variables)))
        return {"J&F": {3: 0.7, 6: 0.4}[step], "J": 0.1 * step}

    return workdir, run(toy_config(), workdir, evaluate=evaluate), asked


@pytest.mark.parametrize(
    ("accumulate", "number"), [(1, signal.SIGINT), (2, signal.SIGHUP)], ids=["keyboard", "terminal"]
)
def test_interrupted_and_resumed_equals_uninterrupted_bit_for_bit(tmp_path, accumulate, number):
    config = toy_config(accumulate=accumulate, save_steps=0)
    whole = run(config, tmp_path / "whole")
    for before in (1, 2):  # two interruptions: one after 2 steps, the next after 3 more
        with pytest.raises(Preempted) as stopped:
            run(config, tmp_path / "parts", interrupted(batches_of(4), before, number))
        assert stopped.value.code == 128 + number
    assert Checkpoints(tmp_path / "parts").latest_step() == 5
    parts = run(config, tmp_path / "parts")
    # step, params, batch_stats, optimizer slots, average and key
    assert_identical(jax.device_get(whole.state), jax.device_get(parts.state))
    resumed = [line["resumed_from"] for line in lines(tmp_path / "parts") if "resumed_from" in line]
    assert resumed == [2, 5]


def test_a_lost_tail_is_trained_again(tmp_path, uninterrupted):
    """Killed at step 5 without notice, with the last checkpoint at step 4."""

    def dies(start):
        yield from (b for _, b in zip(range(5), batches_of(4)(start), strict=False))
        raise ConnectionError

    with pytest.raises(ConnectionError):
        run(toy_config(), tmp_path, dies, evaluate=constant)
    result = run(toy_config(), tmp_path, evaluate=constant)
    assert_identical(jax.device_get(result.state), jax.device_get(uninterrupted[1].state))
    assert {"resumed_from": 4}.items() <= lines(tmp_path)[-3].items()


def test_steps_evaluations_saves_and_logs_come_when_due(uninterrupted):
    workdir, result, asked = uninterrupted
    assert [step for step, _ in asked] == [3, 6]
    assert result.scores == {"J&F": 0.4, "J": pytest.approx(0.6)}
    assert sorted(p.name for p in (workdir / "last").iterdir()) == ["4", "6"]
    assert [p.name for p in (workdir / "best").iterdir()] == ["3"]
    logged = [(line["kind"], line["step"]) for line in lines(workdir)]
    assert logged == [("train", 2), ("eval", 3), ("train", 4), ("train", 6), ("eval", 6)]
    assert list((workdir / "logs").glob("events.out.tfevents.*"))


def test_best_holds_the_evaluated_average(uninterrupted):
    workdir, _, asked = uninterrupted
    (workdir / "config.json").write_text("{}")
    variables, _ = import_variables(workdir)
    assert first_value(variables) == asked[0][1]


def test_a_logged_loss_is_the_mean_since_the_last_line(tmp_path):
    run(toy_config(), tmp_path)
    coarse = [line for line in lines(tmp_path) if line["step"] == 4][0]
    config = toy_config()
    config.log.every = 1
    run(config, tmp_path / "fine")
    fine = {line["step"]: line["loss"] for line in lines(tmp_path / "fine")}
    assert sorted(fine) == [1, 2, 3, 4, 5, 6]
    np.testing.assert_allclose(coarse["loss"], (fine[3] + fine[4]) / 2, rtol=1e-6)


def test_fewer_steps_than_a_run_has_taken_are_told(tmp_path, capsys):
    run(toy_config(), tmp_path)
    config = toy_config(steps=4)
    assert int(run(config, tmp_path).state.step) == 6
    said = "nothing is trained: the run is at step 6 already, and config.train.steps is 4"
    assert said in capsys.readouterr().err


def test_clips_that_were_skipped_are_counted_in_the_log(tmp_path):
    def skipping(start):
        for i, batch in enumerate(batches_of(4)(start)):
            yield {**batch, "bad_clips": i}

    run(toy_config(), tmp_path, skipping)
    assert [line.get("bad_clips") for line in lines(tmp_path)] == [1, 3, 5]


def test_a_finished_run_only_evaluates(tmp_path):
    config = toy_config(steps=2)
    run(config, tmp_path)
    result = run(config, tmp_path, batches=lambda start: iter(()), evaluate=constant)
    assert result.scores == {"J&F": 0.5} and int(result.state.step) == 2


def test_nan_stops_with_step_clip_and_last_good_checkpoint(tmp_path):
    config = toy_config()
    config.log.every = 100  # writing a line would look at the loss, too
    with pytest.raises(NonFiniteLoss) as error:
        run(config, tmp_path, batches_of(4, poison=13))
    message = str(error.value)
    assert "at step 3:" in message  # examples 12..15
    assert "loss not finite for clips: ['clip13']" in message
    assert str(tmp_path / "last" / "2") in message
    # The state after the bad step, due for saving, must not have been saved.
    assert [p.name for p in (tmp_path / "last").iterdir()] == ["2"]


def test_nan_at_the_last_step_is_not_saved_either(tmp_path):
    with pytest.raises(NonFiniteLoss, match="none was saved yet"):
        run(toy_config(steps=1), tmp_path, batches_of(4, poison=0))
    assert not list((tmp_path / "last").iterdir())


def test_data_that_ends_is_refused(tmp_path):
    def short(start):
        return iter([next(batches_of(4)(start))])

    with pytest.raises(ValueError, match="data ended before step 1 of 6.*must repeat"):
        run(toy_config(), tmp_path, short)


def test_batch_that_cannot_be_cut_is_refused(tmp_path):
    with pytest.raises(ValueError, match="config.train.batch=4 cannot be cut into .*accumulate=3"):
        run(toy_config(accumulate=3), tmp_path)


def launch(workdir, steps, stop_before):
    environment = dict(os.environ, JAX_PLATFORMS="cpu", PYTHONPATH=str(ROOT))
    command = [sys.executable, "-m", "tests.train.preempted", str(workdir), steps, stop_before]
    return subprocess.run(
        [str(part) for part in command],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=1200,
        check=False,
    )


def test_sigterm_saves_says_so_and_exits_with_143(tmp_path):
    done = launch(tmp_path, steps=1000, stop_before=3)
    assert done.returncode == 128 + signal.SIGTERM, done.stderr[-2000:]
    said = re.search(r"stopped at step (\d+) by SIGTERM; saved (\S+)\. Run the same", done.stderr)
    assert said and said[1] == "4", done.stderr[-2000:]
    assert Path(said[2]) == tmp_path / "last" / "4" and Path(said[2]).is_dir()
    assert "Traceback" not in done.stderr


def test_a_line_has_the_work_of_a_step_and_no_device_figure_that_is_not_known(tmp_path):
    run(toy_config(), tmp_path)
    first, *later = lines(tmp_path)
    assert first["flops_per_step"] > 0 and "mfu" not in first  # a CPU has no known peak
    for line in later:
        assert line["examples_per_second"] == 4 * line["steps_per_second"]
        work = line["flops_per_step"] * line["steps_per_second"]
        np.testing.assert_allclose(line["flops_per_second"], work)
