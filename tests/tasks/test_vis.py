"""Systems for instances from the command line: trained, stopped, resumed, scored, shown a video."""

import importlib
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.stopping import stopped_by_sigterm, trained_steps
from tests.tiny import quick_compilation
from vos_jax import convert, main, segment
from vos_jax.data.synthetic_vis import synthetic_vis_videos
from vos_jax.systems.table import SYSTEMS, systems_of

FILES = Path(__file__).parents[2] / "configs"
RUN = {
    "data.crop": "(64, 96)",
    "data.sides": "(96, 64)",
    "data.max_objects": "2",
    "eval.videos": "2",
    "eval.linkers": "('iou', 'flow')",
    "train.steps": "4",
    "train.batch": "2",
    "train.save_steps": "0",
    "optim.freeze": "(r'^backbone/',)",
    "optim.warmup_steps": "0",
    "log.every": "1",
}


@pytest.fixture(autouse=True)
def quickly():
    with quick_compilation():
        yield


def call(system, workdir, *more):
    """main with the system's quick preset, shrunk; detections of any score."""
    entry = SYSTEMS[system]
    tiny = {**entry.tiny, "norm_epsilon": 1e-5, "score_threshold": 0.0}
    parts = {f: "inference" if f in entry.inference else "model" for f in tiny}
    settings = {**RUN, **{f"{parts[f]}.{f}": value for f, value in tiny.items()}}
    flags = [f"--config.{name}={value}" for name, value in settings.items()]
    config = f"--config={FILES / system}.py"
    main.main(["main", config, f"--workdir={workdir}", *flags, *more])


def write_frames(folder, video):
    folder.mkdir()
    for t in range(len(video)):
        Image.fromarray(video.frame(t)).save(folder / f"{t:05d}.png")


def test_it_trains_stops_goes_on_is_scored_and_segments_a_video(tmp_path, monkeypatch):
    workdir = tmp_path / "run"
    stopped_by_sigterm(monkeypatch, lambda: call("masktrack_rcnn", workdir, "--mode=train"))
    call("masktrack_rcnn", workdir)
    trained = trained_steps(workdir)
    assert [line["step"] for line in trained] == [1, 2, 3, 4]
    assert all(np.isfinite(line["loss"]) and line["gradient_norm"] > 0 for line in trained)

    results = workdir / "results/step_4"
    scores = json.loads((results / "scores.json").read_text())
    assert scores["protocol"] == "youtube-vis" and len(scores["metrics"]) == 12
    assert scores["settings"]["linker"] == "model"
    for linker in ("iou", "flow"):  # on the same detections
        other = json.loads((results / "linkers" / linker / "scores.json").read_text())
        assert other["settings"]["linker"] == linker
    assert "slow" in (results / "tables.txt").read_text()
    assert len(list((results / "overlays").iterdir())) == 2

    files = [f"--gt={results / 'gt.json'}", f"--pred={results / 'results.json'}"]
    command = importlib.import_module("vos_jax.score")  # the name is a function of the package
    command.main(["score", "--protocol=youtube-vis", *files, f"--out={tmp_path / 'scored'}"])
    again = json.loads((tmp_path / "scored/scores.json").read_text())
    assert again["metrics"] == scores["metrics"]

    video = synthetic_vis_videos("test", 1, 5)[0]
    write_frames(tmp_path / "frames", video)
    places = {"checkpoint": workdir, "frames": tmp_path / "frames", "out": tmp_path / "found"}
    flags = [f"--{name}={place}" for name, place in places.items()]
    segment.main(["segment", *flags, f"--overlay={tmp_path / 'overlay.gif'}"])
    found = json.loads((tmp_path / "found/results.json").read_text())
    assert found and (tmp_path / "overlay.gif").exists()
    for entry in found:
        assert list(entry) == ["video_id", "category_id", "score", "segmentations"]
        assert entry["video_id"] == 1 and 1 <= entry["category_id"] <= 3
        assert len(entry["segmentations"]) == 5
    first = [next(t for t, x in enumerate(e["segmentations"]) if x is not None) for e in found]
    assert first == sorted(first)

    with pytest.raises(SystemExit, match="masktrack_rcnn finds instances by itself.*--maps"):
        segment.main(["segment", *flags, f"--maps={tmp_path / 'maps'}"])
    with pytest.raises(SystemExit, match="results.json exists"):
        segment.main(["segment", *flags])


@pytest.mark.parametrize("system", systems_of("vis"))
def test_what_does_not_fit_a_run_is_refused_before_it_begins(system, tmp_path):
    def refused(match, *flags):
        with pytest.raises(SystemExit, match=match):
            call(system, tmp_path / "run", *flags)

    refused("config.eval.metric: protocol youtube-vis reports AP", "--config.eval.metric=J")
    refused("config.model.classes: expected 3", "--config.model.classes=4")
    refused("config.inference.linker: expected one of", "--config.inference.linker=best")
    refused("needs config.inference.propagation", "--config.inference.linker=propagation")
    labels = "--config.data.train.synthetic.kind=synthetic"
    refused("source synthetic: expected videos or images with instances", labels)
    refused("config.data.sides: expected long and short", "--config.data.sides=(400, 64)")


def test_an_official_checkpoint_of_another_number_of_classes_is_refused_with_its_arrays(tmp_path):
    np.savez(tmp_path / "w.npz", **{"neck.lateral_convs.0.conv.bias": np.zeros(3, np.float32)})
    with pytest.raises(SystemExit, match="masktrack_rcnn: .*missing"):
        flags = {"model": "masktrack_rcnn", "source": tmp_path / "w.npz", "out": tmp_path / "o"}
        convert.main(["convert", *(f"--{name}={value}" for name, value in flags.items())])
