"""From the command line to checkpoints, scores and label maps, on embedded clips."""

import json
import re
import shutil
import signal
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from PIL import Image

from tests.tiny import get_config, lively, quick_compilation
from vos_jax import main as command
from vos_jax import segment
from vos_jax.checkpoint_folder import export_variables, import_variables
from vos_jax.data.masks import read_mask, write_mask
from vos_jax.data.synthetic import render
from vos_jax.systems.build import build_model, init_variables

ROOT = Path(__file__).parents[1]
CONFIG = f"--config={ROOT / 'tests/tiny.py'}:feelvos"
FEELVOS = f"--config={ROOT / 'configs/feelvos.py'}"


@pytest.fixture(scope="module", autouse=True)
def quickly():
    with quick_compilation():
        yield


@pytest.fixture(scope="module")
def call(tmp_path_factory):
    """The command with the shrunk config, starting from lively weights: call(workdir, flags)."""
    config, folder = get_config("feelvos"), tmp_path_factory.mktemp("initial")
    variables = lively(init_variables(build_model(config.model), jax.random.key(0)))
    export_variables(folder, variables, config, {})

    def run(workdir, *flags):
        initial = f"--config.init.model={folder}"
        command.main(["main", CONFIG, initial, f"--workdir={workdir}", *flags])

    return run


@pytest.fixture(scope="module")
def finished(call, tmp_path_factory):
    """The workdir of a run that was not interrupted."""
    workdir = tmp_path_factory.mktemp("finished")
    call(workdir)
    return workdir


def arrays(step: Path) -> dict:
    """Everything that was saved at a step, as numpy arrays."""
    with ocp.PyTreeCheckpointer() as checkpointer:
        return {item: checkpointer.restore(step / item) for item in ("variables", "training")}


def log(workdir: Path) -> list[dict]:
    return [json.loads(line) for line in (workdir / "logs/metrics.jsonl").read_text().splitlines()]


def scores(folder: Path) -> dict:
    return json.loads((folder / "scores.json").read_text())["metrics"]


def test_a_run_leaves_scores_tables_masks_overlays_logs_and_manifest(finished):
    results = finished / "results/step_4"
    assert 0 <= scores(results)["J&F-Mean"] <= 1
    table = (results / "tables.txt").read_text()
    for row in ("test-0000", "test-0001", "model", "copy", "rgb"):
        assert any(line.split()[:1] == [row] for line in table.splitlines()), row
    assert (results / "global_results-val.csv").exists()
    assert (results / "per-sequence_results-val.csv").exists()
    for floor in ("copy", "rgb"):
        assert scores(results / "floors" / floor)["J&F-Mean"] > 0
    for video in ("test-0000", "test-0001"):
        names = sorted(file.name for file in (results / "masks" / video).iterdir())
        assert names == [f"{t:05d}.png" for t in range(4)]
        with Image.open(results / f"overlays/{video}.gif") as overlay:
            assert (overlay.size, overlay.n_frames) == ((160, 96), 4)
    truth = render("test", 0, 0)[1]
    np.testing.assert_array_equal(read_mask(results / "masks/test-0000/00000.png"), truth)

    lines = log(finished)
    assert [line["step"] for line in lines if line["kind"] == "train"] == [1, 2, 3, 4]
    assert {"loss", "learning_rate", "gradient_norm", "pixel_accuracy"} <= set(lines[0])
    evaluated = [line for line in lines if line["kind"] == "eval"]
    assert len(evaluated) == 1 and evaluated[0].items() >= scores(results).items()
    manifest = json.loads((finished / "manifest.json").read_text())
    assert manifest["config"]["model"]["features"] == 8 and "jax" in manifest["packages"]


def test_interrupted_and_resumed_equals_uninterrupted_bit_for_bit(
    call, finished, tmp_path, monkeypatch
):
    with monkeypatch.context() as patch:
        patch.setattr(command, "batches", _stopping_before_batch(2))
        with pytest.raises(SystemExit) as stopped:
            call(tmp_path, "--mode=train")
    assert stopped.value.code == 128 + signal.SIGTERM
    assert [step.name for step in (tmp_path / "last").iterdir()] == ["3"]
    middle = arrays(tmp_path / "last/3")
    # the weights that a run began with are not asked for again: their folder may be gone
    monkeypatch.setattr("vos_jax.train.setup.initial_variables", None)
    call(tmp_path, "--mode=train")
    assert [line["resumed_from"] for line in log(tmp_path) if "resumed_from" in line] == [3]

    resumed, whole = arrays(tmp_path / "last/4"), arrays(finished / "last/4")
    assert jax.tree.structure(resumed) == jax.tree.structure(whole)
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(whole)]
    for part in ("'params'", "'batch_stats'", "'opt_state'", "'rng'", "'step'"):
        assert any(part in path for path in paths), part
    leaves = [jax.tree.leaves(tree) for tree in (resumed, whole, middle)]
    for path, a, b in zip(paths, *leaves[:2], strict=True):
        np.testing.assert_array_equal(a, b, err_msg=path)
    moments = [i for i, path in enumerate(paths) if "'mu'" in path]
    assert len(moments) > 60  # and step 4 has changed each of them: otherwise it is no test
    assert not any(np.array_equal(leaves[0][i], leaves[2][i]) for i in moments)


def _stopping_before_batch(index):
    """The pipeline's batches; SIGTERM arrives while the given one is fetched."""
    batches = command.batches

    def interrupted(*args, **kwargs):
        for i, batch in enumerate(batches(*args, **kwargs)):
            if i == index:
                signal.raise_signal(signal.SIGTERM)
            yield batch

    return interrupted


def test_a_finished_run_trains_nothing_more_and_succeeds(call, finished, tmp_path, capsys):
    workdir = tmp_path / "again"
    shutil.copytree(finished, workdir)
    before = log(workdir)
    call(workdir)
    added = log(workdir)[len(before) :]
    assert [line.get("kind", "resumed") for line in added] == ["resumed", "eval"]
    assert added[1].items() >= scores(finished / "results/step_4").items()
    assert f"results in {workdir}" in capsys.readouterr().out


def test_eval_scores_a_workdir_and_its_steps_as_the_run_did(call, finished, tmp_path):
    expected = scores(finished / "results/step_4")
    workdir = tmp_path / "copy"
    shutil.copytree(finished, workdir)
    call(workdir, "--mode=eval")
    assert scores(workdir / "results/eval") == expected
    with pytest.raises(SystemExit, match="holds results already.*allow overwriting"):
        call(workdir, "--mode=eval")
    call(workdir, "--mode=eval", "--overwrite")
    for folder in ("", "best/4", "last/4"):
        out = tmp_path / folder.replace("/", "_")
        checkpoint = f"--checkpoint={finished / folder}"
        command.main(["main", "--mode=eval", f"--workdir={out}", checkpoint])
        assert scores(out / "results/eval") == expected, folder
    call(tmp_path / "other", "--mode=eval", f"--checkpoint={finished}", "--config.seed=7")
    assert scores(tmp_path / "other/results/eval") == expected


def test_a_workdir_of_another_config_is_refused_with_the_fields(call, finished):
    before = (finished / "config.json").read_bytes()
    with pytest.raises(SystemExit) as refused:
        call(finished, "--config.model.window=4", "--config.optim.learning_rate=0.1")
    message = str(refused.value.code)
    assert f"{finished} belongs to a run with another config" in message
    assert "model.window: 3 -> 4" in message
    assert re.search(r"optim\.learning_rate: \S+ -> 0\.1\n", message)
    assert "seed" not in message
    assert (finished / "config.json").read_bytes() == before


def test_a_checkpoint_of_another_model_is_refused_with_the_fields(call, finished, tmp_path):
    with pytest.raises(SystemExit, match=r"another model than --config(.|\n)*window: 3 -> 5"):
        call(tmp_path, "--mode=eval", f"--checkpoint={finished}", "--config.model.window=5")
    backbone = tmp_path / "backbone"
    export_variables(backbone, {"params": {"k": np.ones(1)}}, {"model": {"name": "resnet"}}, {})
    with pytest.raises(SystemExit, match="holds 'resnet' alone.*init.backbone"):
        call(tmp_path, "--mode=eval", f"--checkpoint={backbone}")


def test_a_backbone_alone_cannot_be_evaluated(tmp_path):
    backbone = tmp_path / "backbone"
    export_variables(backbone, {"params": {"k": np.ones(1)}}, {"model": {"name": "resnet"}}, {})
    with pytest.raises(SystemExit, match="holds 'resnet' alone.*init.backbone"):
        command.main(["main", "--mode=eval", f"--checkpoint={backbone}", f"--workdir={tmp_path}"])


def test_a_start_that_failed_does_not_claim_the_workdir(tmp_path):
    for model in ("nowhere", "there"):  # the second is not held against the first
        with pytest.raises(SystemExit, match=f"{model} does not exist"):
            flags = [f"--workdir={tmp_path / 'w'}", f"--config.init.model={tmp_path / model}"]
            command.main(["main", CONFIG, *flags])


def test_a_batch_that_devices_cannot_share_follows_the_rule_that_is_printed_and_kept(
    tmp_path, monkeypatch, capsys
):
    def built(config, **_):
        raise ValueError(f"built with a batch of {config.train.batch}")

    monkeypatch.setattr(command, "build_training", built)
    arguments = ["main", CONFIG, f"--workdir={tmp_path / 'w'}", "--config.train.accumulate=4"]
    with pytest.raises(SystemExit, match=r"batch=2 in 4 micro.* the next that can is \d+\."):
        command.main(arguments)
    assert not (tmp_path / "w").exists()
    fitting = 4 * len(jax.devices())
    with pytest.raises(SystemExit, match=f"built with a batch of {fitting}$"):
        command.main([*arguments, "--config.optim.scale_rule=linear"])
    manifest = json.loads((tmp_path / "w/manifest.json").read_text())
    line = f"train.batch: 2 -> {fitting}"
    assert line in manifest["scaled"] and f"\n  {line}\n" in capsys.readouterr().out
    assert json.loads((tmp_path / "w/config.json").read_text())["train"]["batch"] == fitting


def test_weights_of_another_model_are_refused_with_the_arrays(call, finished, tmp_path):
    variables, config = import_variables(finished)
    variables["params"]["embedding"]["pointwise"]["bias"] = np.zeros(7, np.float32)
    export_variables(tmp_path / "weights", variables, config, {})
    message = r"does not fit(.|\n)*pointwise/bias: expected \(6,\), found \(7,\)"
    with pytest.raises(SystemExit, match=message):
        call(tmp_path / "run", f"--config.init.model={tmp_path / 'weights'}")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--workdir=w", "missing --config FILE.*--mode eval --checkpoint DIR has its own"),
        ("--workdir=w --mode=eval", "missing --config"),
        ("CONFIG --workdir=w --checkpoint=c", "--checkpoint goes with --mode eval"),
        ("CONFIG --workdir=w --mode=test", "train_and_eval"),
        ("CONFIG --workdir=w stray", r"unexpected arguments \['stray'\]"),
        ("CONFIG --workdir=w --wrkdir=w", "Unknown command line flag 'wrkdir'"),
        ("CONFIG --workdir=w --config.model.windw=4", "no field 'windw'; did you mean 'window'"),
        ("CONFIG --workdir=w --config.trian.steps=4", "no field 'trian'; did you mean 'train'"),
        ("CONFIG --workdir=w --config.train.steps=many", "train.steps"),
        (
            "--config=feelvso.py --workdir=w",
            "no file 'feelvso.py'.* carries agame, cfbi, cfbi_plus, .*did you mean 'feelvos'",
        ),
        ("FEELVOS:papr --workdir=w", "no preset 'papr'; there are quick, small, paper"),
        ("CONFIG --workdir=w --mode=eval --checkpoint=nowhere", "nowhere does not exist"),
        ("CONFIG --workdir=w --mode=eval", "w does not exist"),
        (
            "CONFIG --workdir=w --config.eval.protocol=davis",
            "config.eval.protocol: expected one of davis2016, .*found 'davis'",
        ),
        (
            "CONFIG --workdir=w --config.eval.protocol=fbms",
            "config.eval.metric: protocol fbms reports J-Mean, .*, found 'J&F-Mean'",
        ),
        ("CONFIG --workdir=w --config.eval.seen=no.txt", "no.txt: no such file; it names the seen"),
    ],
)
def test_a_wrong_command_line_ends_with_one_readable_line(
    arguments, message, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=f"^error: .*{message}") as stopped:
        arguments = arguments.replace("CONFIG", CONFIG).replace("FEELVOS", FEELVOS)
        command.main(["main", *arguments.split()])
    assert "\n" not in str(stopped.value.code)
    assert not (tmp_path / "w").exists()


@pytest.mark.parametrize(
    ("arguments", "workdir"),
    [
        ("--config feelvos", "runs/feelvos_quick"),
        ("--config=feelvos.py:small", "runs/feelvos_small"),
        ("--config=configs/stm.py:ablation_main_only", "runs/stm_ablation_main_only"),
        ("--config stm --mode=eval", "runs/stm_quick"),
        ("--mode=eval --checkpoint=a/weights/", "runs/eval_weights"),
        ("--mode=eval --checkpoint=gs://bucket/weights", "runs/eval_weights"),
        ("--mode=eval --checkpoint=runs/mine/best/400", "runs/eval_mine_best_400"),
        ("--config stm --mode=eval --checkpoint=weights", "runs/eval_weights"),
    ],
)
def test_the_default_workdir_is_named_by_config_and_preset_or_by_the_checkpoint(arguments, workdir):
    assert command.default_workdir(command.parse(["main", *arguments.split()])) == workdir


@pytest.fixture
def started(monkeypatch):
    """Runs that do nothing: (function, workdir or folder of results) of each."""
    calls = []
    monkeypatch.setattr(
        command, "run_training", lambda config, workdir, **_: calls.append(("train", workdir))
    )
    monkeypatch.setattr(
        command,
        "run_evaluation",
        lambda config, checkpoint, out, overwrite: calls.append((checkpoint, str(out))),
    )
    return calls


def test_the_config_alone_starts_a_run_that_first_says_its_devices_and_its_workdir(
    started, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    command.main(["main", "--config", "configs/feelvos.py"])  # no such file here
    lines = capsys.readouterr().out.splitlines()
    assert started == [("train", "runs/feelvos_quick")]
    assert re.fullmatch(r"1 process, (\d+) of \1 devices \(.+\)", lines[0])
    assert lines[1] == "workdir: runs/feelvos_quick (default; --workdir changes it)"
    assert lines[2].startswith("compiling comes before the first step")
    assert lines[3].startswith(f"config: {ROOT / 'configs/feelvos.py'} (carried by vos_jax; there")
    assert lines[4:] == ["results in runs/feelvos_quick/results"]


def test_a_workdir_that_is_given_is_taken(started, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    command.main(["main", FEELVOS, "--workdir=w"])
    lines = capsys.readouterr().out.splitlines()
    assert started == [("train", "w")] and lines[1] == "workdir: w (given)"
    assert lines[3:] == ["results in w/results"]  # the config was found where it was said to be


def test_eval_without_a_workdir_scores_the_default_one_or_the_checkpoint(started, capsys):
    command.main(["main", FEELVOS, "--mode=eval"])
    command.main(["main", "--mode=eval", "--checkpoint=weights"])
    assert started == [
        ("runs/feelvos_quick", "runs/feelvos_quick/results/eval"),
        ("weights", "runs/eval_weights/results/eval"),
    ]
    assert "compiling" not in capsys.readouterr().out


def test_help_lists_the_flags(capsys):
    command.main(["main", "--help"])
    printed = capsys.readouterr().out
    assert all(flag in printed for flag in ("--workdir", "--mode", "--checkpoint", "--config"))


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """A folder with five frames of a held-out clip with two objects, and its first mask."""
    folder = tmp_path_factory.mktemp("video")
    index = next(i for i in range(20) if render("test", i, 0)[1].max() == 2)
    (folder / "frames").mkdir()
    for t in range(5):
        Image.fromarray(render("test", index, t)[0]).save(folder / f"frames/{t:05d}.png")
    first = np.array([0, 200, 7], np.uint8)[render("test", index, 0)[1]]
    write_mask(folder / "first.png", first)
    return folder, first


def _segment(checkpoint, video, mask, out):
    segment.main(
        ["segment", f"--checkpoint={checkpoint}", f"--frames={video / 'frames'}"]
        + [f"--mask={video / mask}", f"--out={out}"]
    )


def test_a_trained_checkpoint_segments_a_video_in_the_ids_of_its_mask(
    finished, video, tmp_path, capsys
):
    folder, first = video
    _segment(finished, folder, "first.png", tmp_path / "out")
    assert "objects [7, 200]" in capsys.readouterr().out
    labels = [read_mask(tmp_path / f"out/{t:05d}.png", binary=False) for t in range(5)]
    np.testing.assert_array_equal(labels[0], first)
    assert all(set(np.unique(x)) <= {0, 7, 200} for x in labels)
    assert {7, 200} & set(np.unique(labels[1:]))  # the objects are found again


def test_a_mask_of_another_size_than_the_frames_is_refused(finished, video, tmp_path):
    folder, first = video
    write_mask(folder / "small.png", first[:, :-1])
    with pytest.raises(SystemExit, match=r"small\.png.*96x159.*96x160"):
        _segment(finished, folder, "small.png", tmp_path / "out")
    assert not list(tmp_path.glob("out/*.png"))
