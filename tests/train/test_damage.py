"""Checkpoints that a crash or a broken copy has damaged, and disks that take nothing."""

import json
import os
import shutil

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from tests.train.toy import build, toy_config
from vos_jax.checkpoint_folder import import_variables
from vos_jax.train.checkpoint import Checkpoints, SaveError
from vos_jax.train.workdir import prepare_workdir


def at_step(state, step):
    return state.replace(step=jax.numpy.asarray(step, jax.numpy.int32))


@pytest.fixture(scope="module")
def state():
    return build(toy_config())[0]


@pytest.fixture(scope="module")
def original(tmp_path_factory, state):
    """A workdir with last/ 3 and 4, whose averages are full of the step, and best/ 2."""
    folder = tmp_path_factory.mktemp("work") / "run"
    prepare_workdir(folder, toy_config(), {})
    checkpoints = Checkpoints(folder, keep_last=2)
    for step in (2, 3, 4):
        now = at_step(state, step)
        now = now.replace(ema=jax.tree.map(lambda p, s=step: p * 0 + s, now.ema))
        checkpoints.save_last(now)
        if step == 2:
            checkpoints.save_best(now, {"J&F": 0.5}, "J&F")
    checkpoints.close()
    return folder


@pytest.fixture
def workdir(original, tmp_path):
    shutil.copytree(original, tmp_path / "run")
    return tmp_path / "run"


def cut(path):
    """The largest file below `path` to a third, as a copy that was interrupted leaves it."""
    file = max((f for f in path.rglob("*") if f.is_file()), key=lambda f: f.stat().st_size)
    os.truncate(file, file.stat().st_size // 3)


DAMAGE = {
    "an empty folder": lambda step: (shutil.rmtree(step), step.mkdir()),
    "a file": lambda step: (shutil.rmtree(step), step.write_text("")),
    "no rest of the state": lambda step: shutil.rmtree(step / "training"),
    "no variables": lambda step: shutil.rmtree(step / "variables"),
    "no description": lambda step: (step / "variables/_METADATA").unlink(),
    "a cut description": lambda step: os.truncate(step / "training/_METADATA", 40),
    "an empty index": lambda step: os.truncate(step / "variables/manifest.ocdbt", 0),
    "a cut index": lambda step: os.truncate(step / "variables/manifest.ocdbt", 20),
    "cut arrays": lambda step: cut(step / "variables"),
    "cut arrays of the rest": lambda step: cut(step / "training"),
    "no arrays": lambda step: shutil.rmtree(step / "training/d"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_step_is_set_aside_and_the_run_goes_on_from_the_one_before(
    name, workdir, state, capsys
):
    DAMAGE[name](workdir / "last/4")
    checkpoints = Checkpoints(workdir)
    restored = checkpoints.restore(state)
    assert int(restored.step) == 3 and all((x == 3).all() for x in jax.tree.leaves(restored.ema))
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note: ")]
    assert len(said) == 1 and f"{workdir}/last/4 " in said[0]
    assert f"moved to {workdir}/damaged/last_4" in said[0]
    assert [entry.name for entry in (workdir / "damaged").iterdir()] == ["last_4"]
    checkpoints.save_last(at_step(state, 4))  # its place is free again
    checkpoints.close()
    assert sorted(entry.name for entry in (workdir / "last").iterdir()) == ["3", "4"]
    assert (workdir / "last/4/training").is_dir()


def test_a_stray_folder_of_a_later_step_does_not_keep_the_run_from_saving(workdir, state):
    (workdir / "last/100").mkdir()
    checkpoints = Checkpoints(workdir)
    assert checkpoints.latest_step() == 4
    checkpoints.save_last(at_step(state, 5))
    checkpoints.close()
    assert (workdir / "last/5/variables").is_dir() and not (workdir / "last/100").exists()


def test_where_no_step_can_be_read_all_are_kept_and_said(workdir, state):
    for step in (3, 4):
        DAMAGE["no arrays"](workdir / f"last/{step}")
    checkpoints = Checkpoints(workdir)
    with pytest.raises(ValueError, match="none of the steps in .*last could be read.*damaged"):
        checkpoints.restore(state)
    checkpoints.close()
    assert sorted(f.name for f in (workdir / "damaged").iterdir()) == ["last_3", "last_4"]


@pytest.mark.parametrize("name", ["an empty folder", "a cut description", "no variables"])
def test_a_damaged_best_step_does_not_stop_a_run(name, workdir, state):
    target = workdir / "best/2"
    DAMAGE[name](target) if "description" not in name else os.truncate(target / "score/metadata", 0)
    checkpoints = Checkpoints(workdir)
    assert checkpoints.best_scores() is None
    assert checkpoints.save_best(at_step(state, 5), {"J&F": 0.1}, "J&F")
    checkpoints.close()


@pytest.mark.parametrize("name", [n for n in DAMAGE if "rest" not in n and n != "no arrays"])
def test_inference_takes_the_next_step_that_can_be_read(name, workdir, capsys):
    shutil.rmtree(workdir / "best")
    DAMAGE[name](workdir / "last/4")
    if name == "a cut description":  # of training, which inference does not need
        os.truncate(workdir / "last/4/variables/_METADATA", 40)
    variables, _ = import_variables(workdir)
    assert all((x == 3).all() for x in jax.tree.leaves(variables["params"]))
    assert f"{workdir}/last/4" in capsys.readouterr().err
    assert (workdir / "last/4").exists()  # nothing is moved by who only reads


def test_a_damaged_checkpoint_that_was_named_is_refused_by_its_name(workdir):
    cut(workdir / "last/4/variables")
    with pytest.raises(ValueError, match="last/4/variables: the variables cannot be read"):
        import_variables(workdir / "last/4")


@pytest.mark.parametrize("content", ["", '{"model": {"na', "\x00\x00"])
def test_a_cut_config_is_refused_by_its_name(workdir, content):
    (workdir / "config.json").write_text(content)
    with pytest.raises(ValueError, match=r"run/config\.json: not a readable JSON file"):
        import_variables(workdir)
    with pytest.raises(ValueError, match=r"run/config\.json: not a readable JSON file"):
        prepare_workdir(workdir, toy_config(), {})


def test_a_cut_config_of_a_run_that_saved_nothing_is_written_anew(tmp_path):
    (tmp_path / "config.json").write_text("")
    prepare_workdir(tmp_path, toy_config(), {})
    assert json.loads((tmp_path / "config.json").read_text())["seed"] == toy_config().seed


def test_a_cut_manifest_is_kept_aside_and_does_not_stop_the_run(workdir, capsys):
    (workdir / "manifest.json").write_text('{"cut')
    prepare_workdir(workdir, toy_config(), {"note": "again"})
    manifest = json.loads((workdir / "manifest.json").read_text())
    assert manifest == {"resumed": [{"note": "again"}]}
    assert (workdir / "manifest.json.damaged").read_text() == '{"cut'
    assert "manifest.json: not a readable JSON file" in capsys.readouterr().err


@pytest.mark.parametrize("when", ["save", "wait_until_finished"])
def test_a_disk_that_takes_nothing_ends_in_one_line_with_the_last_whole_step(
    workdir, state, monkeypatch, when
):
    checkpoints = Checkpoints(workdir)

    def full(self, *args, **kwargs):
        raise ValueError("while writing [lots of words]: No space left on device [more words]")

    with monkeypatch.context() as patch:
        patch.setattr(ocp.CheckpointManager, when, full)
        with pytest.raises(SaveError) as error:
            checkpoints.save_last(at_step(state, 5))
    message = str(error.value)
    assert "could not be written: No space left on device. Last whole one:" in message
    assert f"{workdir}/last/4" in message and len(message.splitlines()) == 1
    checkpoints.close()


@pytest.mark.parametrize("keep", [0, -1])
def test_keeping_no_step_is_refused(tmp_path, keep):
    with pytest.raises(ValueError, match="config.train.keep_last: expected at least 1"):
        Checkpoints(tmp_path, keep_last=keep)
    assert not list(tmp_path.iterdir())


def test_a_step_is_read_as_it_was_saved(workdir, state):
    checkpoints = Checkpoints(workdir)
    restored = checkpoints.restore(state)
    checkpoints.close()
    assert int(restored.step) == 4 and not (workdir / "damaged").exists()
    for x, y in zip(jax.tree.leaves(restored.params), jax.tree.leaves(state.params), strict=True):
        np.testing.assert_array_equal(x, y)
