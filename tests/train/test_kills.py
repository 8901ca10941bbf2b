"""`kill -9` at random moments, and while the files that describe a run are written."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from tests.eight_devices import PATIENCE, ROOT
from tests.train.killed import MOMENTS, config, train
from vos_jax.checkpoint_folder import plain_config
from vos_jax.train.checkpoint import Checkpoints
from vos_jax.train.workdir import prepare_workdir

KILLS = int(os.environ.get("VOS_JAX_KILLS", 3))
ENDLESS = 10**6


def start(*arguments):
    command = [sys.executable, "-m", "tests.train.killed", *map(str, arguments)]
    environment = dict(os.environ, PYTHONPATH=str(ROOT))
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=ROOT, env=environment, **pipes)


def kill_after(process, steps, seconds):
    """Kills a run so many seconds after so many of its steps, in whatever it does then."""
    said, done = [], 0
    for line in process.stderr:
        said.append(line)
        done += line.startswith("step ")
        if done == steps:
            time.sleep(seconds)
            process.kill()
            break
    process.stderr.read()  # until its end, or it would wait for a reader
    assert process.wait(timeout=PATIENCE) == -signal.SIGKILL, "".join(said)[-3000:]


def test_a_run_that_is_killed_at_random_moments_ends_as_one_that_was_not(tmp_path):
    draw, workdir = random.Random(0), tmp_path / "killed"
    for _ in range(KILLS):
        # once the third step is done the first one is saved, and saving goes on all the time
        kill_after(start("run", workdir, ENDLESS), 3 + draw.randrange(3), draw.uniform(0, 0.1))
    last = max(int(step.name) for step in (workdir / "last").iterdir() if step.name.isdigit()) + 2
    final = start("run", workdir, last)
    _, said = final.communicate(timeout=PATIENCE)
    assert final.returncode == 0, said[-3000:]

    lines = [json.loads(line) for line in (workdir / "logs/metrics.jsonl").read_text().splitlines()]
    resumed = [line["resumed_from"] for line in lines if "resumed_from" in line]
    assert len(resumed) == KILLS and 0 < resumed[0] and resumed == sorted(set(resumed))
    whole = train(tmp_path / "whole", last).state
    checkpoints = Checkpoints(workdir)
    ended = checkpoints.restore(whole)
    checkpoints.close()
    assert int(ended.step) == last
    for a, b in zip(jax.tree.leaves(ended), jax.tree.leaves(whole), strict=True):
        np.testing.assert_array_equal(a, b)
    assert not re.search("damaged|set aside", said)
    for folder in ("last", "best"):
        assert_same_names(workdir / folder, tmp_path / "whole" / folder)
    assert len(json.loads((workdir / "manifest.json").read_text())["resumed"]) >= KILLS


def assert_same_names(one, other):
    names = [sorted(entry.name for entry in folder.iterdir()) for folder in (one, other)]
    assert names[0] == names[1]


@pytest.fixture(scope="module")
def described(tmp_path_factory):
    """A folder with a workdir for each moment, in which a process has died then.

    new_<moment>: of a run that was about to begin; begun_<moment>: of one that had a checkpoint.
    """
    new, begun = tmp_path_factory.mktemp("new"), tmp_path_factory.mktemp("begun")
    for number, when in MOMENTS[:2]:  # a run that goes on writes one file, the manifest
        workdir = begun / f"{number}_{when}"
        prepare_workdir(workdir, config(3), {"note": "first"})
        (workdir / "last/1").mkdir(parents=True)
        (workdir / "last/1/whatever").touch()
    for folder in (new, begun):
        process = start("describe", folder)
        out, err = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, err[-3000:]
        assert out.split() == [str(-signal.SIGKILL)] * len(MOMENTS)
    return new, begun


@pytest.mark.parametrize(("number", "when"), MOMENTS)
def test_a_kill_while_a_new_run_is_described_leaves_a_workdir_that_can_be_used(
    described, tmp_path, number, when
):
    workdir = shutil.copytree(described[0] / f"{number}_{when}", tmp_path / "w")
    for path in workdir.glob("*.json"):
        json.loads(path.read_text())  # whole or not there
    prepare_workdir(workdir, config(3), {"note": "again"})
    assert json.loads((workdir / "config.json").read_text()) == plain_config(config(3))
    assert "again" in (workdir / "manifest.json").read_text()


@pytest.mark.parametrize(("number", "when"), MOMENTS[:2])
def test_a_kill_while_a_run_that_goes_on_is_described_loses_nothing(
    described, tmp_path, number, when
):
    workdir = shutil.copytree(described[1] / f"{number}_{when}", tmp_path / "w")
    assert json.loads((workdir / "config.json").read_text()) == plain_config(config(3))
    prepare_workdir(workdir, config(3), {"note": "again"})
    manifest = json.loads((workdir / "manifest.json").read_text())
    killed = [{"note": "killed"}] * (when == "after")
    assert manifest == {"note": "first", "resumed": [*killed, {"note": "again"}]}
