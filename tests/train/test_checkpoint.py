import json
import shutil
import sys
import warnings
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from tests.train.toy import Toy, build, toy_config
from vos_jax.checkpoint_folder import export_variables, import_variables, plain_config
from vos_jax.train import checkpoint
from vos_jax.train.checkpoint import Checkpoints
from vos_jax.train.workdir import differing_fields, prepare_workdir


def at_step(state, step):
    return state.replace(step=jax.numpy.asarray(step, jax.numpy.int32))


def assert_same(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


@pytest.fixture(scope="module")
def state():
    return build(toy_config())[0]


@pytest.fixture(scope="module")
def workdir(tmp_path_factory, state):
    """A workdir with last/ 1..4 (two kept) and best/ 2; best has other values than last."""
    folder = tmp_path_factory.mktemp("work") / "run"
    prepare_workdir(folder, toy_config(), {"note": "first"})
    checkpoints = Checkpoints(folder, keep_last=2)
    for step, score in ((1, 0.2), (2, 0.9), (3, 0.5), (4, float("nan"))):
        now = at_step(state, step)
        now = now.replace(ema=jax.tree.map(lambda p, s=step: p * 0 + s, now.ema))
        checkpoints.save_last(now)
        assert checkpoints.save_best(now, {"J&F": score, "J": 0.1}, "J&F") is (step <= 2)
    checkpoints.close()
    return folder


def test_best_and_last_are_kept_apart(workdir):
    assert sorted(p.name for p in (workdir / "last").iterdir()) == ["3", "4"]
    assert [p.name for p in (workdir / "best").iterdir()] == ["2"]
    checkpoints = Checkpoints(workdir)
    assert checkpoints.latest_step() == 4
    assert checkpoints.best_scores() == {"J&F": 0.9, "J": 0.1}
    checkpoints.close()


def test_restore_gives_the_newest_state_exactly(workdir, state):
    checkpoints = Checkpoints(workdir)
    restored = checkpoints.restore(state)
    checkpoints.close()
    assert int(restored.step) == 4
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    assert_same(restored.params, state.params)
    assert_same(restored.opt_state, state.opt_state)
    assert all((x == 4).all() for x in jax.tree.leaves(restored.ema))


def test_restore_without_checkpoint_is_refused(tmp_path, state):
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.latest_step() is None and checkpoints.best_scores() is None
    with pytest.raises(FileNotFoundError, match="no checkpoint in .*last"):
        checkpoints.restore(state)
    checkpoints.close()


def test_restore_into_another_model_or_optimizer_lists_the_arrays(workdir):
    wider = build(toy_config(), Toy(width=8))[0]
    checkpoints = Checkpoints(workdir)
    with pytest.raises(ValueError, match=r"body/kernel: checkpoint \(3, 3, 16, 32\), this run "):
        checkpoints.restore(wider)
    config = toy_config()
    config.optim.name = "adam"
    with pytest.raises(ValueError, match="another model or optimizer.*\n.*opt_state"):
        checkpoints.restore(build(config)[0])
    checkpoints.close()


def test_state_without_average_and_with_frozen_parameters_restores(tmp_path):
    config = toy_config(ema=0.0)
    config.optim.freeze = ("^stem/",)
    state = build(config)[0]
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save_last(at_step(state, 7))
    checkpoints.save_last(at_step(state, 7))  # the same step again is no error
    checkpoints.wait()
    restored = checkpoints.restore(state)
    checkpoints.close()
    assert int(restored.step) == 7 and restored.ema is None
    assert_same(restored.params, state.params)


def test_unknown_metric_is_refused_with_those_that_exist(tmp_path, state):
    checkpoints = Checkpoints(tmp_path)
    with pytest.raises(ValueError, match="config.eval.metric is 'F'.*'J', 'J&F'"):
        checkpoints.save_best(state, {"J": 0.1, "J&F": 0.2}, "F")
    checkpoints.close()


def test_import_takes_best_then_last_then_a_step_and_averages(workdir, tmp_path):
    def value(path):
        variables, config = import_variables(path)
        assert config == plain_config(toy_config())
        assert sorted(variables) == ["batch_stats", "params"]
        leaves = jax.tree.leaves(variables["params"])
        assert all(isinstance(leaf, np.ndarray) for leaf in leaves)
        return float(leaves[0].flat[0])

    assert value(workdir) == 2
    assert value(workdir / "last") == 4
    assert value(workdir / "last" / "3") == 3
    only_last = tmp_path / "only_last"
    prepare_workdir(only_last, toy_config(), {})
    (only_last / "last").symlink_to(workdir / "last")
    assert value(only_last) == 4


def test_export_and_import_return_the_same(tmp_path, state):
    variables = jax.device_get(state.variables())
    folder = export_variables(tmp_path / "out", variables, {"model": {"a": (1, 2)}}, {"by": "me"})
    restored, config = import_variables(folder)
    assert_same(variables, restored)
    assert jax.tree.structure(variables) == jax.tree.structure(restored)
    assert config == {"model": {"a": [1, 2]}}
    assert json.loads((tmp_path / "out" / "manifest.json").read_text()) == {"by": "me"}


def test_export_without_batch_stats_imports(tmp_path):
    variables = {"params": {"w": np.arange(3.0)}, "batch_stats": {}}
    export_variables(tmp_path / "out", variables, {}, {})
    restored, _ = import_variables(tmp_path / "out")
    assert_same(variables["params"], restored["params"])


def test_export_refuses_a_folder_in_use_unless_told(tmp_path):
    variables = {"params": {"w": np.zeros(3)}}
    (tmp_path / "notes.txt").write_text("keep")
    with pytest.raises(ValueError, match="exists and is not empty; give another folder"):
        export_variables(tmp_path, variables, {}, {})
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]
    for value in (1.0, 2.0):
        export_variables(tmp_path, {"params": {"w": np.full(3, value)}}, {}, {}, overwrite=True)
    assert import_variables(tmp_path)[0]["params"]["w"][0] == 2
    assert (tmp_path / "notes.txt").read_text() == "keep"


def test_import_errors_say_what_was_found(tmp_path, workdir):
    with pytest.raises(FileNotFoundError, match="nowhere does not exist"):
        import_variables(tmp_path / "nowhere")
    (tmp_path / "model.ckpt-1.index").write_text("")
    with pytest.raises(FileNotFoundError, match=r"model.ckpt-1.index.*vos_jax.convert"):
        import_variables(tmp_path)
    with pytest.raises(FileNotFoundError, match="a file"):
        import_variables(tmp_path / "model.ckpt-1.index")
    lonely = tmp_path / "a" / "b" / "4"
    lonely.parent.mkdir(parents=True)
    lonely.symlink_to(workdir / "last" / "4")
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "variables").symlink_to(workdir / "last" / "4" / "variables")
    with pytest.raises(FileNotFoundError, match="no config.json in .*copy"):
        import_variables(copy)


def test_workdir_of_another_config_is_refused_with_old_and_new_values(workdir):
    before = (workdir / "config.json").read_text()
    config = toy_config()
    config.optim.momentum = 0.5
    config.optim.decay = ()
    with pytest.raises(ValueError) as error:
        prepare_workdir(workdir, config, {})
    assert "optim.momentum: 0.9 -> 0.5" in str(error.value)
    assert "optim.decay: ['kernel$'] -> []" in str(error.value)
    assert "another --workdir" in str(error.value)
    assert (workdir / "config.json").read_text() == before


def test_workdir_of_the_same_run_is_continued_with_other_reports_and_devices(tmp_path):
    prepare_workdir(tmp_path, toy_config(), {"note": "first"})
    before = (tmp_path / "config.json").read_text()
    config = toy_config(steps=99, save_steps=1)
    config.log.every = 7
    config.eval.every = 1
    config.mesh.fsdp = 4
    config.data = {"workers": 3, "processes": 2}
    for note in ("second", "third"):
        prepare_workdir(tmp_path, config, {"note": note})
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest == {"note": "first", "resumed": [{"note": "second"}, {"note": "third"}]}
    assert (tmp_path / "config.json").read_text() == before


def test_a_field_newer_than_the_workdir_may_stand_at_its_default_and_at_nothing_else(
    workdir, tmp_path
):
    workdir = shutil.copytree(workdir, tmp_path / "run")
    stored = json.loads((workdir / "config.json").read_text())
    del stored["train"]["remat"]
    del stored["optim"]["name"]
    (workdir / "config.json").write_text(json.dumps(stored))
    defaults = {"train": {"remat": "none"}, "optim": {"name": "sgd"}}
    prepare_workdir(workdir, toy_config(), {}, defaults)
    with pytest.raises(ValueError, match=r"train.remat: absent -> 'blocks'\nGive"):
        prepare_workdir(workdir, toy_config(remat="blocks"), {}, defaults)
    with pytest.raises(ValueError, match=r"optim.name: absent -> 'sgd'") as error:
        prepare_workdir(workdir, toy_config(), {}, {"optim": {"name": "adam"}})
    assert "train.remat: absent -> 'none'" in str(error.value)


def test_checkpoints_of_an_unknown_run_are_refused(tmp_path):
    (tmp_path / "last" / "3").mkdir(parents=True)
    with pytest.raises(ValueError, match="no config.json, so their run is unknown"):
        prepare_workdir(tmp_path, toy_config(), {})


def test_differing_fields_are_named_sorted_and_ignorable():
    old = {"data": {"dir": "a", "train": {"x": {"dir": "p", "weight": 1}}}, "seed": 1, "old": {}}
    new = {"data": {"dir": "b", "train": {"x": {"dir": "q", "weight": 2}}}, "seed": 1, "new": None}
    assert differing_fields(old, new, ignore=("data.dir", "data.train.*.dir")) == [
        "data.train.x.weight: 1 -> 2",
        "new: absent -> None",
        "old: {} -> absent",
    ]
    assert differing_fields(old, new, ignore=("data", "old", "new")) == []
    assert differing_fields(toy_config(), plain_config(toy_config())) == []


def test_config_that_json_cannot_hold_is_refused():
    with pytest.raises(ValueError, match="cannot be written as JSON"):
        plain_config({"dtype": np.float32})


def test_of_a_failed_save_other_errors_are_told_and_closed_loops_are_not(monkeypatch):
    told = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: told.append(unraisable.exc_value))
    with warnings.catch_warnings():
        checkpoint._hush_closed_loops.__wrapped__()
        for words in ("Event loop is closed", "something else"):
            sys.unraisablehook(SimpleNamespace(exc_value=RuntimeError(words)))
    assert [str(error) for error in told] == ["something else"]
