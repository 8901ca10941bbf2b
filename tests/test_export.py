"""Exports say what vos_jax says, for every system that takes masks, and alone in a process."""

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from absl import flags

from tests.tiny import quick_compilation, tiny_section, tiny_system
from vos_jax import export as command
from vos_jax.checkpoint_folder import export_variables
from vos_jax.export import Form, export_system, moving_frames
from vos_jax.export_preparation import preparation_of
from vos_jax.inference.setup import Inference
from vos_jax.inference.streaming import VideoSegmenter
from vos_jax.systems.views import Views

SIZE = (40, 56)
RUN_ALONE = """
import sys

class Nothing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("vos_jax", "flax", "cv2", "PIL", "absl"):
            raise ImportError(name)

sys.meta_path.insert(0, Nothing())
import numpy as np
from runner import Runner

with np.load(sys.argv[1]) as clip:
    frames, mask = clip["frames"], clip["mask"]
runner = Runner()
print(runner.start(frames[0], mask).shape)
np.save(sys.argv[2], np.stack([runner.step(frames[1]), runner.step(frames[2], mask)]))
"""


@pytest.fixture(autouse=True)
def quickly():
    with quick_compilation():
        yield


@pytest.mark.parametrize("system", ["stm", "cfbi", "cfbi_plus", "agame", "rvos"])
def test_every_system_that_takes_masks_is_exported_and_compared(system, tmp_path):
    model, variables = tiny_system(system)
    form = Form(SIZE, objects=2, platforms=("cpu",))
    said = export_system(tmp_path / "out", Inference(model), variables, form)
    assert said.startswith("labels equal to vos_jax's on 4 frames on cpu")
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    assert manifest["system"] == system and manifest["size"] == list(SIZE)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["out"]


@pytest.fixture(scope="module")
def exported(tiny_feelvos, tmp_path_factory):
    """FEELVOS from a checkpoint by the command, for all platforms, with room for another mask."""
    folder = tmp_path_factory.mktemp("export")
    export_variables(folder / "weights", tiny_feelvos[1], {"model": tiny_section("feelvos")}, {})
    with quick_compilation():
        command.main(
            ["export", f"--checkpoint={folder}/weights", f"--out={folder}/out", "--size=40x56"]
            + ["--objects=3", "--given-masks=2"]
        )
    return folder / "out"


def test_the_runner_needs_nothing_of_ours_and_takes_a_mask_later(exported, tiny_feelvos, tmp_path):
    frames, mask = moving_frames(SIZE, 2, 3)
    mask = np.where(mask > 0, mask * 7, 0).astype(np.uint8)  # any ids
    np.savez(tmp_path / "clip.npz", frames=frames, mask=mask)
    done = subprocess.run(
        [sys.executable, "-c", RUN_ALONE, tmp_path / "clip.npz", tmp_path / "found.npy"],
        cwd=exported,
        capture_output=True,
        text=True,
        env={**os.environ, "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"},
    )
    assert done.returncode == 0, done.stderr
    segmenter = VideoSegmenter(*tiny_feelvos, slots=3)
    segmenter.step(frames[0], mask)
    wanted = np.stack([segmenter.step(frames[1]), segmenter.step(frames[2], mask)])
    assert len(np.unique(wanted)) > 1
    assert (np.load(tmp_path / "found.npy") != wanted).mean() < 1e-3  # ties


def test_the_programs_are_lowered_for_every_platform(exported):
    from jax import export

    for name in ("start", "step", "give"):
        program = export.deserialize(bytearray((exported / f"{name}.stablehlo").read_bytes()))
        assert program.platforms == ("cpu", "cuda", "tpu")


def test_a_folder_that_exists_is_never_touched(exported, tiny_feelvos):
    before = {file.name: file.stat().st_mtime_ns for file in exported.iterdir()}
    with pytest.raises(FileExistsError, match="out exists; choose another name"):
        export_system(exported, Inference(tiny_feelvos[0]), tiny_feelvos[1], Form(SIZE, 1))
    assert before == {file.name: file.stat().st_mtime_ns for file in exported.iterdir()}


def test_an_export_that_differs_is_noticed(exported, tiny_feelvos):
    model, form = tiny_feelvos[0], Form(SIZE, 3, given_masks=2)
    other = tiny_system("feelvos", seed=1)[1]
    with pytest.raises(ValueError, match="differs from vos_jax in frame 1"):
        command._compare(exported, model, other, preparation_of(model, SIZE), form)


def test_an_export_that_fails_leaves_nothing(tiny_feelvos, tmp_path, monkeypatch):
    def differs(*_):
        raise ValueError("the exported program differs")

    monkeypatch.setattr(command, "_programs", lambda *_: {})
    monkeypatch.setattr(command, "_compare", differs)
    with pytest.raises(ValueError, match="differs"):
        export_system(tmp_path / "out", Inference(tiny_feelvos[0]), tiny_feelvos[1], Form(SIZE, 2))
    assert list(tmp_path.iterdir()) == []


def test_the_runner_refuses_what_it_has_no_room_for(exported):
    from vos_jax.export_runner import Runner

    frames, mask = moving_frames(SIZE, 2, 2)
    runner = Runner(exported)
    with pytest.raises(ValueError, match="no video has begun"):
        runner.step(frames[0])
    with pytest.raises(ValueError, match=r"expected a frame uint8 \(40, 56, 3\)"):
        runner.start(frames[0][1:], mask)
    with pytest.raises(ValueError, match="holds no object"):
        runner.start(frames[0], mask * 0)
    crowd = mask.copy()
    crowd[0, :4] = 3, 4, 5, 6
    with pytest.raises(ValueError, match="room for 3 objects"):
        runner.start(frames[0], crowd)
    runner.start(frames[0], mask)
    runner.step(frames[1], mask)
    with pytest.raises(ValueError, match="room for 2 frames with masks"):
        runner.step(frames[1], mask)


@pytest.mark.parametrize(
    ("system", "fields"),
    [
        ("cfbi", {"short_side": 24}),
        ("agame", {"short_side": 20}),
        ("stm", {}),
        ("feelvos", {"short_side": 24}),
        ("rvos", {"size": (24, 32)}),
    ],
)
def test_frames_are_prepared_as_the_system_does_it_on_the_host(system, fields):
    model = tiny_system(system, **fields)[0]
    frame = moving_frames((39, 57), 2, 1)[0][0]
    preparation = preparation_of(model, (39, 57))
    found = np.asarray(preparation.prepared(frame, preparation.matrices()), np.float32)
    wanted = np.asarray(model.preprocess(frame), np.float32)
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).max() <= (1 if fields else 0)


def test_a_preparation_that_is_no_product_is_refused():
    model = SimpleNamespace(preprocess=lambda frame: np.sqrt(frame.astype(np.float32)))
    with pytest.raises(ValueError, match="cannot be exported: off by"):
        preparation_of(model, (12, 16))


def test_systems_without_masks_and_several_views_are_refused_in_one_line(tiny_feelvos, tmp_path):
    for model, why in [
        (tiny_system("cosnet")[0], "COSNet takes no masks"),
        (Views(tiny_feelvos[0], flip=True), "one view is exported, found several"),
    ]:
        with pytest.raises(ValueError, match=why):
            export_system(tmp_path / "out", Inference(model), {}, Form(SIZE, 1))


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--size=480"], "--size: expected HEIGHTxWIDTH"),
        (["--size=0x5"], "--size: expected HEIGHTxWIDTH"),
        (["--size=4x5", "--objects=255"], "--objects: expected 1..254"),
        (["--size=4x5", "--platforms=cpu,rocm"], "--platforms: expected some of cpu,cuda,tpu"),
        ([], "missing --size"),
    ],
)
def test_the_command_line_is_checked(arguments, why):
    with pytest.raises(flags.Error, match=why):
        command.parse(["export", "--checkpoint=c", "--out=o", *arguments])


def test_instance_systems_are_refused_in_one_line(monkeypatch, tmp_path):
    config = {"model": {"name": "mask_rcnn"}}
    monkeypatch.setattr(command, "load_variables", lambda checkpoint, config_: ({}, config))
    with pytest.raises(SystemExit, match="error: mask_rcnn finds instances and takes no masks"):
        command.main(["export", "--checkpoint=c", f"--out={tmp_path}/o", "--size=4x5"])
