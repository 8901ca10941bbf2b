"""The commands of docs/own_data.md run in their order as they stand there."""

import json
import re
import shlex
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.data.trees import SIZE, davis_tree, frame, labels, write_image
from tests.importing.runs import box, labelme, polygon, rectangle, track
from tests.tiny import tiny_section
from vos_jax import cli
from vos_jax.checkpoint_folder import export_variables
from vos_jax.data.masks import write_mask
from vos_jax.data.rle import encode
from vos_jax.data.sources import open_sources
from vos_jax.main import parse
from vos_jax.presets.checks import check_config

PAGE = (Path(__file__).parents[1] / "docs/own_data.md").read_text()
COMMANDS = re.findall(r"^ {4,6}(vos-jax .*)$", PAGE, re.MULTILINE)
CONFIG = re.search(r"```python\n(.*?)```", PAGE, re.DOTALL)[1]
FRAMES = 3
LONG = ("train", "evaluate")  # parsed, and their data opened


@pytest.fixture
def place(tiny_feelvos, tmp_path, monkeypatch):
    """What the page takes for granted, in the current folder."""
    monkeypatch.chdir(tmp_path)
    for run in ("demo", "mine"):
        export_variables(f"runs/{run}", tiny_feelvos[1], {"model": tiny_section("feelvos")}, {})
    video = cv2.VideoWriter("clip.mp4", cv2.VideoWriter_fourcc(*"mp4v"), 25, SIZE[::-1])
    for t in range(FRAMES):
        for folder in ("frames", "JPEGImages/clip"):
            write_image(tmp_path / folder / f"{t:05d}.jpg", frame(t))
        video.write(np.ascontiguousarray(frame(t)[..., ::-1]))
        labelme(tmp_path / f"labels/{t:05d}.json", t, [polygon("cat", labels(t) == 1)])
    video.release()
    write_mask("first.png", labels(0))
    Path("given").mkdir()
    write_mask("given/00000.png", labels(0, (1,)))
    write_mask("given/00001.png", labels(1))
    davis_tree(tmp_path / "checked")
    annotations(tmp_path)
    return tmp_path


def annotations(root):
    """The files of the other tools."""
    boxes = track(0, "cat", *(box(t, labels(t) == 1) for t in range(FRAMES)))
    (root / "annotations.xml").write_text(f"<annotations>{boxes}</annotations>")
    tables = {"categories": [{"id": 1, "name": "cat"}]}
    size = {"height": SIZE[0], "width": SIZE[1]}
    images = [{"id": t, "file_name": f"{t:05d}.jpg", **size} for t in range(FRAMES)]
    outlines = ([rectangle(labels(t) == 1)] for t in range(FRAMES))
    entries = [
        {"id": t, "image_id": t, "category_id": 1, "segmentation": outline}
        for t, outline in enumerate(outlines)
    ]
    coco = tables | {"images": images, "annotations": entries}
    (root / "coco.json").write_text(json.dumps(coco))
    names = [f"clip/{t:05d}.jpg" for t in range(FRAMES)]
    video = {"id": 1, "length": FRAMES, "file_names": names, **size}
    masks = [encode(labels(t)[None] == 1)[0] for t in range(FRAMES)]
    tracks = [{"id": 1, "video_id": 1, "category_id": 1, "segmentations": masks}]
    (root / "ytvis.json").write_text(
        json.dumps(tables | {"videos": [video], "annotations": tracks})
    )


def before(words):
    """What the reader of the page has done by hand before a command."""
    if words == ["data-check", "mine"]:
        shutil.move("checked", "mine")
    elif words[-1] == "mine" and words[0] == "import-annotations":
        shutil.rmtree("mine")
    elif words[0] == "train":
        Path("mine.py").write_text(CONFIG)
        shutil.copy("mine/ImageSets/2017/train.txt", "mine/ImageSets/2017/val.txt")
    elif words[0] == "score":
        shutil.copytree("mine/Annotations/480p", "results")


def test_every_command_of_the_page_runs(place, capsys):
    assert len(COMMANDS) >= 11
    for command in COMMANDS:
        words = shlex.split(command)[1:]
        before(words)
        if words[0] in LONG:
            args = parse(["vos-jax", *cli.VERBS[words[0]].first, *words[1:]])
            check_config(args.config)
            for key in ("train", "eval"):
                assert [len(s.videos) for s in open_sources(args.config.data, key)] == [1]
        else:
            cli.main(["vos-jax", *words])
    written = {"masks": FRAMES, "masks2": FRAMES, "masks_mine": FRAMES, "scores": 3}
    assert {name: len(list(Path(name).iterdir())) for name in written} == written
    for name in ("mine", "mine_cvat", "mine_coco", "mine_ytvis"):
        assert len(list(Path(name).glob("Annotations/480p/*/*.png"))) == FRAMES
    assert "J&F" in capsys.readouterr().out


def test_every_verb_but_those_for_released_things_is_on_the_page():
    shown = {command.split()[1] for command in COMMANDS} | set(re.findall(r"`vos-jax (\S+)", PAGE))
    assert set(cli.VERBS) - shown <= {
        "package",
        "benchmark",
        "figures",
        "report",
        "export",
        "annotate",
    }
