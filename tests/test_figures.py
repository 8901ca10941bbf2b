"""The figures of MaskProp, of a tiny network, and the command that draws them."""

import csv

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from tests.systems.maskprop import tiny_maskprop
from tests.tiny import quick_compilation
from vos_jax import figures
from vos_jax.checkpoint_folder import export_variables
from vos_jax.configs import maskprop
from vos_jax.systems.table import SYSTEMS

SIZE, FRAMES = (96, 160), 5


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A checkpoint with lively weights and its config: three linkers, two videos, reach 1."""
    fields = {"reach": 1, "score_threshold": 0.0, "canvas": (0, 0), "classes": 3}
    model, variables = tiny_maskprop.tiny_maskprop(**fields)
    config = maskprop.get_config("quick")
    for name in (*config.model, *config.inference):
        if hasattr(model, name) and name != "name":
            part = config.inference if name in SYSTEMS["maskprop"].inference else config.model
            part[name] = getattr(model, name)
    config.data.eval.synthetic.update({"frames": FRAMES, "videos": 2})
    config.eval.linkers = ("model", "iou", "none")
    folder = tmp_path_factory.mktemp("figures") / "checkpoint"
    export_variables(folder, variables, config, {})
    return folder


def draw(run, out, *more):
    with quick_compilation():
        return figures.run(figures.parse(["figures", f"--checkpoint={run}", f"--out={out}", *more]))


def sheet(file):
    return np.asarray(Image.open(file))


def test_features_of_two_instances_are_drawn_in_every_frame_of_the_clip(run, tmp_path):
    draw(run, tmp_path, "--figure=features", "--videos=1")
    (file,) = (tmp_path / "features").iterdir()
    found, (height, width) = sheet(file), SIZE
    assert found.shape == (3 * height + 2 * figures.GAP, 3 * width + 2 * figures.GAP, 3)
    below = [found[(height + figures.GAP) * i :][:height, :width] for i in (1, 2)]
    assert [(image == image[..., :1]).all() for image in below] == [True, True]
    assert max(image.std() for image in below) > 0  # a mask of fresh weights may be empty


def test_linkers_have_a_row_each_below_the_frames(run, tmp_path):
    draw(run, tmp_path, "--figure=linkers")
    files = sorted((tmp_path / "linkers").iterdir())
    assert len(files) == 2
    rows = 1 + 3
    for file in files:
        found = sheet(file)
        assert len(found) == rows * (SIZE[0] + figures.GAP) - figures.GAP
        frames, *linked = (found[(SIZE[0] + figures.GAP) * i :][: SIZE[0]] for i in range(rows))
        assert all((row != frames).any() for row in linked)


def test_precision_by_length_of_clips_is_a_table_and_a_plot(run, tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "REACHES", (0, 1))
    said = draw(run, tmp_path, "--figure=reach")
    with (tmp_path / "reach.csv").open() as file:
        header, *rows = csv.reader(file)
    assert header == ["frames of a clip", "all", "slow", "fast"]
    assert [row[0] for row in rows] == ["1", "3"]
    assert all(-1 <= float(x) <= 1 for row in rows for x in row[1:])
    assert "frames of a clip" in said and sheet(tmp_path / "reach.png").std() > 0
    with pytest.raises(FileExistsError, match="reach.png"):
        draw(run, tmp_path, "--figure=reach")


def test_a_system_that_carries_no_masks_has_no_such_figure(monkeypatch, tmp_path):
    config = ConfigDict({"model": {"name": "masktrack_rcnn"}, "inference": {}})
    monkeypatch.setattr(figures, "load_variables", lambda *_: ({}, config))
    monkeypatch.setattr(
        figures, "build_vis_inference", lambda _: type("Inference", (), {"model": object()})
    )
    with pytest.raises(ValueError, match="--figure reach: masktrack_rcnn carries no masks"):
        draw("somewhere", tmp_path, "--figure=reach")
