"""RSIS and RIS from the command line: trained, stopped, resumed, scored, shown a user's image."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.stopping import stopped_by_sigterm, trained_steps
from tests.systems.rsis.cases import official_arrays
from tests.tiny import quick_compilation
from vos_jax import convert, main, segment
from vos_jax.data.masks import read_mask
from vos_jax.data.synthetic_instances import draw

FILE = Path(__file__).parents[3] / "configs/rvos.py"
SMALL = {
    "model.width": "0.0625",
    "optim.freeze": "(r'^encoder/backbone/',)",
    "model.features": "16",
    "inference.threshold": "0.0",
    "eval.videos": "4",
    "train.steps": "4",
    "train.batch": "2",
    "train.save_steps": "0",
    "log.every": "1",
}


@pytest.fixture(autouse=True)
def quickly():
    with quick_compilation():
        yield


def call(system, workdir, *more):
    settings = [f"--config.{name}={value}" for name, value in SMALL.items()]
    main.main(["main", f"--config={FILE}:{system}_quick", f"--workdir={workdir}", *settings, *more])


@pytest.mark.parametrize("system", ["rsis", "ris"])
def test_it_trains_stops_goes_on_is_scored_and_segments_an_image(system, tmp_path, monkeypatch):
    workdir = tmp_path / "run"
    if system == "rsis":  # once is enough
        stopped_by_sigterm(monkeypatch, lambda: call(system, workdir, "--mode=train"))
    call(system, workdir)
    trained = trained_steps(workdir)
    assert [line["step"] for line in trained] == [1, 2, 3, 4]
    assert all(np.isfinite(line["loss"]) and line["gradient_norm"] > 0 for line in trained)
    results = workdir / "results/step_4"
    scores = json.loads((results / "scores.json").read_text())
    assert scores["protocol"] == "instances" and 0 <= scores["metrics"]["AP50"] <= 1
    classes = ["object"] if system == "ris" else ["disc", "square", "triangle"]
    assert list(scores["per_class"]) == classes
    assert scores["settings"]["images"] == 4 and (results / "results.json").exists()

    (tmp_path / "images").mkdir()
    Image.fromarray(draw("test", 0).image).save(tmp_path / "images/a.png")
    places = {"checkpoint": workdir, "frames": tmp_path / "images", "out": tmp_path / "masks"}
    segment.main(["segment", *(f"--{name}={place}" for name, place in places.items())])
    labels = read_mask(tmp_path / "masks/a.png")
    assert labels.shape == (64, 96) and labels.max() <= 4


def test_convert_builds_rsis_from_its_own_preset_with_any_number_of_classes(monkeypatch, tmp_path):
    arrays = dict(official_arrays())
    for leaf in ("weight", "bias"):
        arrays[f"fc_class.{leaf}"] = arrays[f"fc_class.{leaf}"][:9]
    written = {}
    monkeypatch.setattr(convert, "read_arrays", lambda path: arrays)
    monkeypatch.setattr(
        convert,
        "export_variables",
        lambda out, variables, config, manifest: written.update(config=config, variables=variables),
    )
    source = tmp_path / "official.npz"
    np.savez(source)
    command = ["convert", "--model=rsis", f"--source={source}", f"--out={tmp_path / 'out'}"]
    with pytest.raises(SystemExit, match="tells 9 classes apart.*--config.model.classes=9"):
        convert.main(command)
    convert.main([*command, f"--config={FILE}:rsis", "--config.model.classes=9"])
    assert written["config"].model.name == "rsis" and written["config"].model.classes == 9
    kernel = written["variables"]["params"]["heads"]["class_logits"]["kernel"]
    np.testing.assert_array_equal(kernel, arrays["fc_class.weight"].T)
