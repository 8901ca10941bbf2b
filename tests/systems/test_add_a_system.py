"""The system of docs/add_a_system.md is one class and one entry, and every command takes it."""

import importlib
import json
import re
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.tiny import quick_compilation
from vos_jax import benchmark, convert, main, segment
from vos_jax.data.masks import read_mask, write_mask
from vos_jax.data.synthetic import render
from vos_jax.systems.base import Traits, VOSModel
from vos_jax.systems.table import SYSTEMS

PAGE = Path(__file__).parents[2] / "docs/add_a_system.md"
SYSTEM, ENTRY, CONFIG = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
SHRUNK = """
import runpy
from tests.tiny import shrunk

def get_config(preset="quick"):
    return shrunk(runpy.run_path({path!r})["get_config"]())
"""


@pytest.fixture
def nearest_mean(monkeypatch, tmp_path):
    """The system of the page is in the table; gives the flag of its config, shrunk."""
    (tmp_path / "nearest_mean.py").write_text(f"{SYSTEM}\n\n{ENTRY}")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(SYSTEMS, "nearest_mean", importlib.import_module("nearest_mean").SYSTEM)
    (tmp_path / "config.py").write_text(CONFIG)
    (tmp_path / "shrunk.py").write_text(SHRUNK.format(path=str(tmp_path / "config.py")))
    with quick_compilation():
        yield f"--config={tmp_path / 'shrunk.py'}"
    del sys.modules["nearest_mean"]


def test_the_page_names_every_method_and_every_trait():
    text = PAGE.read_text()
    methods = [name for name, x in vars(VOSModel).items() if callable(x) and name[0] != "_"]
    assert len(methods) > 10
    for name in [*methods, *Traits.__dataclass_fields__]:
        assert f"`{name}" in text, name


def test_the_system_of_the_page_goes_through_every_command(nearest_mean, tmp_path, capsys):
    assert runpy.run_path(str(tmp_path / "config.py"))["get_config"]().train.steps == 200
    rng = np.random.default_rng(0)
    official = {"conv.weight": rng.normal(size=(4, 3, 3, 3)), "conv.bias": rng.normal(size=4)}
    np.savez(tmp_path / "official.npz", **official)
    folders = [f"--source={tmp_path / 'official.npz'}", f"--out={tmp_path / 'converted'}"]
    convert.main(["convert", "--model=nearest_mean", *folders, nearest_mean])
    assert "2 arrays, 112 parameters" in capsys.readouterr().out

    run = [
        nearest_mean,
        f"--workdir={tmp_path / 'run'}",
        f"--config.init.model={tmp_path / 'converted'}",
    ]
    main.main(["main", *run, "--config.train.steps=2"])
    lines = (tmp_path / "run/logs/metrics.jsonl").read_text().splitlines()
    losses = [json.loads(line).get("loss") for line in lines]
    assert len([loss for loss in losses if loss is not None and np.isfinite(loss)]) == 2

    def score(name):
        results = tmp_path / name / "scores.json"
        return json.loads(results.read_text())["metrics"]["J&F-Mean"]

    evaluation = [f"--workdir={tmp_path / 'again'}", f"--checkpoint={tmp_path / 'run'}"]
    main.main(["main", "--mode=eval", *evaluation])
    assert score("again/results/eval") == score("run/results/step_2") > 0

    frame, labels = render("test", 0, 0)
    (tmp_path / "frames").mkdir()
    for t in range(3):
        Image.fromarray(render("test", 0, t)[0]).save(tmp_path / f"frames/{t:05d}.png")
    write_mask(tmp_path / "mask.png", labels)
    flags = {"checkpoint": "converted", "frames": "frames", "mask": "mask.png", "out": "masks"}
    segment.main(["segment", *(f"--{key}={tmp_path / name}" for key, name in flags.items())])
    assert read_mask(tmp_path / "masks/00002.png").shape == frame.shape[:2]

    capsys.readouterr()
    benchmark.main(["nearest_mean", "--frame", "48", "64", "--rounds", "1"])
    rows = capsys.readouterr().out.splitlines()
    assert [row.split()[0] for row in rows if row.startswith(("whole", "encode", "conv"))]
    video = ["--frames", "100", "--frame", "48", "64"]
    benchmark.main(["stream", "--system", "nearest_mean", *video])
    assert "compilations after frame 1" in capsys.readouterr().out
