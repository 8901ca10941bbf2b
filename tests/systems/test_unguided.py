"""Systems that go without masks, from the command line: trained, scored, shown a user's video."""

import json
import shutil
import sys
import types

import numpy as np
import pytest
from PIL import Image

import vos_jax
from tests import tiny
from tests.data.trees import davis_tree, frame, labels, write_video
from tests.systems import test_every_system_trains as trains
from tests.systems.toys import LOOKING, PROPOSING
from tests.tiny import quick_compilation
from vos_jax import benchmark, main, segment
from vos_jax.checkpoint_folder import export_variables
from vos_jax.data.masks import read_mask, write_mask
from vos_jax.presets import common
from vos_jax.presets.checks import check_config
from vos_jax.scoring import score
from vos_jax.systems.table import SYSTEMS

UNSUPERVISED = "davis2017-unsupervised"
TOYS = {"looking": LOOKING, "proposing": PROPOSING}


@pytest.fixture(autouse=True)
def toys(monkeypatch):
    """Both are in the table, and each has a config."""
    for name, entry in TOYS.items():
        monkeypatch.setitem(SYSTEMS, name, entry)
        config = types.SimpleNamespace(get_config=lambda preset, name=name: toy_config(name))
        monkeypatch.setitem(sys.modules, f"vos_jax.configs.{name}", config)
    with quick_compilation():
        yield


def toy_config(name):
    config = common.new_config(name)
    common.use_synthetic(config)
    config.train.num_given = 0
    config.eval.protocol = UNSUPERVISED
    if name == "looking":
        config.data.max_objects, config.data.objects.merge = 1, True
    else:
        config.eval.floors = ("background", "whole_frame")
    return config


@pytest.fixture
def checkpoint(tmp_path):
    """Function of a toy's name -> a folder with lively weights of it and its config."""

    def write(name):
        config = tiny.get_config(name)
        _, variables = tiny.tiny_system(name)
        export_variables(tmp_path / name, variables, config.to_dict(), {})
        return tmp_path / name

    return write


@pytest.mark.parametrize("name", TOYS)
def test_it_trains_stops_goes_on_and_is_scored_without_masks(name, tmp_path, monkeypatch):
    trains.test_a_run_trains_stops_goes_on_where_it_was_and_is_scored(
        name, tiny.get_config(name), tmp_path, monkeypatch
    )
    results = tmp_path / "results/step_4"
    floors = {place.name for place in (results / "floors").iterdir()}
    assert floors == {"background", "whole_frame"}
    score = json.loads((results / "floors/background/scores.json").read_text())["metrics"]
    assert score["J-Mean"] == 0
    first = read_mask(next((results / "masks").iterdir()) / "00000.png")
    assert first.max() <= TOYS[name].model(**TOYS[name].tiny).traits.proposals


@pytest.mark.parametrize("name", TOYS)
def test_its_score_is_that_of_its_written_masks(name, checkpoint, tmp_path):
    root = davis_tree(tmp_path / "DAVIS", split="val")
    shutil.move(root / "Annotations", root / "Annotations_unsupervised")
    source = {"kind": "davis", "dir": str(root), "split": "val", "task": "unsupervised"}
    config = tmp_path / "config.py"
    config.write_text(
        f"from tests import tiny\n\ndef get_config(preset='quick'):\n"
        f"    config = tiny.get_config({name!r})\n"
        f"    config.data.eval = {{'davis': {source!r}}}\n    return config\n"
    )
    command = [
        f"--config={config}",
        f"--checkpoint={checkpoint(name)}",
        f"--workdir={tmp_path}/run",
    ]
    main.main(["main", "--mode=eval", f"--workdir={tmp_path}/run", *command])
    results = tmp_path / "run/results/eval"
    found = json.loads((results / "scores.json").read_text())["metrics"]
    scored = score(UNSUPERVISED, root, results / "masks", subset="val").metrics
    assert found == pytest.approx(dict(scored)) and found["J-Mean"] > 0.01


def folder_of_frames(path, count=4):
    path.mkdir()
    for t in range(count):
        Image.fromarray(frame(t)).save(path / f"{t:05d}.png")
    return path


@pytest.mark.parametrize("name", TOYS)
@pytest.mark.parametrize("kind", ["folder", "video"])
def test_segment_needs_no_mask(name, kind, checkpoint, tmp_path):
    if kind == "folder":
        frames = folder_of_frames(tmp_path / "frames")
    else:
        frames = write_video(tmp_path / "video.avi", 4)
    weights, outputs = checkpoint(name), [f"--out={tmp_path}/out", f"--maps={tmp_path}/maps"]
    segment.main(["segment", f"--checkpoint={weights}", f"--frames={frames}", *outputs])
    segmenter = vos_jax.load(weights)
    pictures = [picture for _, picture in segment.open_frames(frames)]
    if name == "looking":
        segmenter.observe([pictures[t] for t in LOOKING.model().reference_frames(4, 0)])
    for t, picture in enumerate(pictures):
        np.testing.assert_array_equal(
            read_mask(tmp_path / f"out/{t:05d}.png"), segmenter.step(picture)
        )
    with np.load(tmp_path / "maps/00003.npz") as maps:
        np.testing.assert_allclose(maps["probabilities"], segmenter.probabilities(), atol=1e-5)
        assert maps["ids"].tolist() == segmenter.ids


def test_the_slots_of_training_are_as_many_as_are_proposed(capsys):
    config = toy_config("looking")
    config.data.max_objects = 2
    with pytest.raises(ValueError, match="max_objects: expected 1, as many as looking proposes"):
        check_config(config)


@pytest.mark.parametrize("name", TOYS)
def test_it_can_be_measured(name, capsys):
    benchmark.main([name, "--frame", "48", "64", "--rounds", "1"])
    rows = [row.split()[0] for row in capsys.readouterr().out.splitlines() if row.strip()]
    assert {"encode", "segment", "feedback", "memorize"} <= set(rows)
    benchmark.main(["stream", "--system", name, "--frames", "100", "--frame", "48", "64"])
    assert "compilations after frame 1" in capsys.readouterr().out


def test_a_mask_that_is_missing_or_not_wanted_is_refused_in_one_line(checkpoint, tmp_path, clip):
    frames = folder_of_frames(tmp_path / "frames", 1)
    write_mask(tmp_path / "mask.png", labels(0))
    call = ["segment", f"--frames={frames}", f"--out={tmp_path}/out"]
    with pytest.raises(SystemExit, match="error: looking finds its objects itself and takes no"):
        weights = f"--checkpoint={checkpoint('looking')}"
        segment.main([*call, weights, f"--mask={tmp_path}/mask.png"])
    model, variables = tiny.tiny_system("stm")
    export_variables(tmp_path / "stm", variables, {"model": tiny.tiny_section("stm")}, {})
    with pytest.raises(SystemExit, match="error: missing --mask: stm segments the objects"):
        segment.main([*call, f"--checkpoint={tmp_path}/stm"])
    assert not (tmp_path / "out").exists()
