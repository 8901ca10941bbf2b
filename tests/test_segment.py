import os
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from absl import flags
from ml_collections import ConfigDict
from PIL import Image

from tests.data.image_bytes import encoded
from tests.data.trees import write_video
from vos_jax import segment as command
from vos_jax.data import given_masks, masks
from vos_jax.data.frames import FrameSource, open_frames
from vos_jax.data.given_masks import GivenMasks
from vos_jax.data.image_file import upright
from vos_jax.data.masks import read_mask
from vos_jax.inference.segmenting import segment
from vos_jax.inference.writers import FrameResult
from vos_jax.systems.base import Traits
from vos_jax.tasks import vos

SIZE = (10, 14)


def write_mask(path, labels):
    path.parent.mkdir(exist_ok=True)
    masks.write_mask(path, labels)


class StubSegmenter:
    """Gives the newest id everywhere, at the first frame its mask; channel k is full of ids[k]."""

    def __init__(self, ids=()):
        self.ids: list[int] = list(ids)
        self._newest, self._met = 0, {0}

    def step(self, frame, labels=None):
        first = self._newest == 0
        if labels is not None:
            found = [int(i) for i in np.unique(labels) if i not in (0, 255)]
            self.ids += [i for i in found if i not in self.ids]
            self._newest = found[-1] if found else self._newest
            self._met.update(found)
        return labels if first else np.full(frame.shape[:2], self._newest, np.uint8)

    def probabilities(self):
        return np.stack([np.full(SIZE, i * (i in self._met), np.float32) for i in (0, *self.ids)])


class Collector:
    def __init__(self):
        self.results: list[FrameResult] = []

    def write(self, result):
        self.results.append(result)


@pytest.fixture
def video(tmp_path):
    """A folder of 4 frames, f2, f9, f10, f11 in natural order, and a folder for masks."""
    (tmp_path / "frames").mkdir()
    (tmp_path / "masks").mkdir()
    for n in (2, 9, 10, 11):
        Image.new("RGB", SIZE[::-1], (n, n, n)).save(tmp_path / f"frames/f{n}.png")
    return tmp_path


def mask(*ids):
    labels = np.zeros(SIZE, np.uint8)
    for row, i in enumerate(ids):
        labels[row] = i
    return labels


def video_of(frames):
    """A video file of as many black frames, by what GivenMasks asks of it."""

    def read(wanted):
        for t in range(frames) if wanted is None else wanted:
            yield f"{t:05d}", "v.mp4", np.zeros((*SIZE, 3), np.uint8)

    return FrameSource("v.mp4", SIZE, None, read, turn=lambda stem: 1)


def track(video, masks="masks"):
    frames, collector = open_frames(video / "frames"), Collector()
    given = GivenMasks(video / masks, frames)
    ids = segment(StubSegmenter(), frames, given, [collector])
    return ids, collector.results


@pytest.fixture
def run(video, monkeypatch):
    """The command with the stub in place of a checkpoint."""
    system = SimpleNamespace(traits=Traits())
    inference = SimpleNamespace(model=system, segmenter=lambda variables, ids: StubSegmenter(ids))
    config = ConfigDict({"model": {"name": "feelvos"}})
    monkeypatch.setattr(command, "load_variables", lambda checkpoint, config_: (None, config))
    monkeypatch.setattr(vos, "build_inference", lambda config: inference)

    def call(*extra, masks="masks", out="out"):
        command.main(
            ["segment", "--checkpoint=c", f"--frames={video}/frames", f"--mask={video / masks}"]
            + [f"--out={video / out}", *extra]
        )

    return call


def test_any_ids_come_out_as_they_went_in_and_the_first_mask_as_given(video):
    write_mask(video / "masks/f2.png", mask(254, 7, 255))
    write_mask(video / "masks/f10.png", mask(3))
    ids, results = track(video)
    assert ids[:2] == [7, 254] and ids[-1] == 3
    assert [r.stem for r in results] == ["f2", "f9", "f10", "f11"]
    np.testing.assert_array_equal(results[0].labels, mask(254, 7, 255))
    assert [int(r.labels[9, 0]) for r in results[2:]] == [3, 3]


def test_one_mask_file_is_the_first_frames_whatever_its_name(video):
    write_mask(video / "drawn.png", mask(4))
    assert track(video, "drawn.png")[0] == [4]


def test_everything_asked_for_is_written(video, run, capsys):
    write_mask(video / "masks/f2.png", mask(7))
    write_mask(video / "masks/f10.png", mask(3))
    run(f"--overlay={video}/o.gif", f"--probabilities={video}/p.npz", f"--maps={video}/maps")
    assert sorted(f.name for f in (video / "out").iterdir()) == [
        "f10.png", "f11.png", "f2.png", "f9.png"
    ]  # fmt: skip
    assert np.unique(read_mask(video / "out/f9.png")).tolist() == [7]
    with np.load(video / "p.npz") as stored:
        assert stored["ids"].tolist() == [3, 7]
        assert stored["probabilities"][:, 1:, 0, 0].tolist() == [[0, 7], [0, 7], [3, 7], [3, 7]]
    with np.load(video / "maps/f9.npz") as stored:
        assert stored["probabilities"].shape == (3, *SIZE)
    assert (video / "o.gif").stat().st_size > 0
    assert "objects [3, 7]" in capsys.readouterr().out


def test_a_folder_is_listed_once_and_every_file_decoded_once(video, run, monkeypatch):
    write_mask(video / "masks/f2.png", mask(7))
    write_mask(video / "masks/f10.png", mask(3))
    seen = Counter()

    def counted(module, name):
        function = getattr(module, name)

        def call(place, *arguments, **options):
            seen[f"{name} {Path(str(place)).name}"] += 1
            return function(place, *arguments, **options)

        monkeypatch.setattr(module, name, call)

    counted(given_masks, "read_mask")
    counted(cv2, "imdecode")
    counted(os, "listdir")
    run(f"--maps={video}/maps")
    decoded = [count for name, count in seen.items() if name.startswith("imdecode")]
    assert sum(decoded) == 4
    assert (seen["read_mask f2.png"], seen["read_mask f10.png"]) == (1, 1)
    assert (seen["listdir frames"], seen["listdir masks"]) == (1, 1)


def test_masks_are_written_as_they_come(video, run, monkeypatch):
    write_mask(video / "masks/f2.png", mask(7))
    image = Image.new("RGB", (5, 5))
    image.save(video / "frames/f10.png")
    with pytest.raises(SystemExit, match="f10.png: this frame is 5x5"):
        run()
    assert sorted(f.name for f in (video / "out").iterdir()) == ["f2.png", "f9.png"]


def test_a_first_mask_without_objects_is_refused(video):
    write_mask(video / "masks/f2.png", mask(255))
    with pytest.raises(ValueError, match=r"first frame, f2, holds no object.*found \[0, 255\]"):
        track(video)


def test_a_first_frame_without_mask_is_refused(video):
    write_mask(video / "masks/f9.png", mask(1))
    with pytest.raises(ValueError, match="first frame, f2, has no mask"):
        track(video)


def test_a_mask_of_another_size_names_both_sizes(video):
    write_mask(video / "masks/f2.png", np.ones((3, 4), np.uint8))
    with pytest.raises(ValueError, match=r"f2\.png.*3x4.*10x14"):
        track(video)


def test_a_mask_that_matches_no_frame_is_listed(video):
    for name in ("f2", "00009", "f12"):
        write_mask(video / f"masks/{name}.png", mask(1))
    listed = r"2 of 3 masks match no frame: 00009\.png, f12\.png.*called f2 to f11"
    with pytest.raises(ValueError, match=listed):
        track(video)


def test_masks_beyond_the_end_of_a_video_of_unknown_length_are_listed(video):
    write_mask(video / "masks/00000.png", mask(1))
    write_mask(video / "masks/00007.png", mask(1))
    frames = video_of(3)
    given = GivenMasks(video / "masks", frames)
    with pytest.raises(ValueError, match=r"00007\.png.*00000 to 00002"):
        segment(StubSegmenter(), frames, given, [])


@pytest.mark.parametrize("name", ["0", "frame_00000", "000000"])
def test_a_mask_whose_name_no_video_frame_can_have_is_refused_at_once(video, name):
    write_mask(video / f"masks/{name}.png", mask(1))
    with pytest.raises(ValueError, match=rf"{name}\.png; the frames of a video are called 00000"):
        GivenMasks(video / "masks", video_of(3))


def test_missing_and_empty_mask_folders_are_refused(video):
    with pytest.raises(FileNotFoundError, match="no mask at .*nothing"):
        GivenMasks(video / "nothing", video_of(1))
    with pytest.raises(FileNotFoundError, match="holds no .png mask"):
        GivenMasks(video / "masks", video_of(1))


def test_no_frames_are_refused(video):
    write_mask(video / "masks/f2.png", mask(1))
    with pytest.raises(ValueError, match="no frames to segment"):
        given = GivenMasks(video / "masks", open_frames(video / "frames"))
        segment(StubSegmenter(), [], given, [])


def test_an_output_folder_with_content_is_refused_in_one_line(video, run):
    write_mask(video / "masks/f2.png", mask(1))
    write_mask(video / "out/f9.png", mask(5))
    with pytest.raises(SystemExit, match="error: .*out is not empty.*--overwrite"):
        run()
    run("--overwrite")
    assert np.unique(read_mask(video / "out/f9.png")).tolist() == [1]


def test_files_of_a_longer_run_are_left_and_named(video, run, capsys):
    write_mask(video / "masks/f2.png", mask(1))
    for name in ("f9", "f12", "f13"):
        write_mask(video / f"out/{name}.png", mask(5))
    (video / "out/notes.txt").write_text("mine")
    run("--overwrite")
    said = capsys.readouterr().err
    assert "out also holds 2 .png files of an earlier run" in said and "f12.png, f13.png" in said
    assert (video / "out/notes.txt").exists()
    assert np.unique(read_mask(video / "out/f12.png")).tolist() == [0, 5]


@pytest.mark.parametrize(
    ("flag", "place"),
    [
        ("out", "frames"),
        ("out", "masks"),
        ("out", "out/../frames/"),
        ("out", "link"),
        ("overlay", "out"),
        ("overlay", "frames"),
        ("maps", "out"),
        ("maps", "masks"),
    ],
)
def test_no_output_may_be_an_input_or_another_output(video, run, flag, place):
    write_mask(video / "masks/f2.png", mask(1))
    (video / "link").symlink_to(video / "frames")
    with pytest.raises(SystemExit, match=f"error: --{flag} .* is .*, which would be overwritten"):
        run("--overwrite", f"--{flag}={video}/{place}")
    assert sorted(f.name for f in video.iterdir()) == ["frames", "link", "masks"]
    assert len(list((video / "frames").iterdir())) == 4


def test_probabilities_are_no_image(video, run):
    write_mask(video / "masks/f2.png", mask(1))
    with pytest.raises(SystemExit, match=r"masks/f2\.png: expected a name that ends in \.npz"):
        run("--overwrite", f"--probabilities={video}/masks/f2.png")


def test_the_folder_of_the_one_mask_is_no_place_for_results(video, run):
    write_mask(video / "drawn/f2.png", mask(4))
    with pytest.raises(SystemExit, match="is the folder of --mask"):
        run("--overwrite", masks="drawn/f2.png", out="drawn")


def test_a_tilde_is_the_home_folder(video, run, monkeypatch, tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    write_mask(video / "masks/f2.png", mask(1))
    run("--out=~/masks", "--overlay=~/o.gif")
    assert len(list((home / "masks").iterdir())) == 4 and (home / "o.gif").exists()


def test_void_and_empty_later_masks_are_told(video, run, capsys):
    write_mask(video / "masks/f2.png", mask(7, 255))
    write_mask(video / "masks/f10.png", mask())
    run()
    said = capsys.readouterr().err
    assert "f2.png: 14 pixels are 255, which means void" in said
    assert "f10.png holds no object and changes nothing" in said


def test_masks_may_end_in_capitals(video):
    write_mask(video / "masks/f2.PNG", mask(3))
    assert track(video)[0] == [3]


def test_frames_on_their_side_take_masks_that_lie_either_way(video, capsys):
    for file in (video / "frames").iterdir():
        file.write_bytes(encoded(np.zeros((*SIZE, 3), np.uint8), "PNG", turn=6))
    write_mask(video / "masks/f2.png", mask(1, 2))
    _, results = track(video)
    assert results[1].frame.shape == (14, 10, 3)
    np.testing.assert_array_equal(results[0].labels, upright(mask(1, 2), 6))
    assert "4 frames were turned as their EXIF orientation says" in capsys.readouterr().err
    write_mask(video / "masks/f2.png", mask(1, 2).T)
    np.testing.assert_array_equal(track(video)[1][0].labels, mask(1, 2).T)


def test_the_overlay_of_a_video_runs_as_fast_as_the_video(video, run, monkeypatch):
    path = write_video(video / "v.avi", frames=6, fps=60)
    write_mask(video / "drawn.png", np.ones((48, 64), np.uint8))
    run(f"--frames={path}", f"--mask={video}/drawn.png", f"--overlay={video}/o.mp4")
    overlay = cv2.VideoCapture(str(video / "o.mp4"))
    assert overlay.get(cv2.CAP_PROP_FPS) == 60 and overlay.get(cv2.CAP_PROP_FRAME_COUNT) == 6
    assert sorted(f.name for f in video.iterdir() if f.name.startswith((".", "o"))) == [
        "o.mp4",
        "out",
    ]


def test_too_many_probabilities_leave_no_output_behind(video, run, monkeypatch):
    write_mask(video / "masks/f2.png", mask(1))
    monkeypatch.setattr("vos_jax.inference.writers.MAX_PROBABILITY_BYTES", 4000)
    with pytest.raises(SystemExit, match="4 frames x 2 channels.*--maps DIR"):
        run(f"--probabilities={video}/p.npz")
    assert not (video / "out").exists()


def test_the_command_line_is_checked():
    with pytest.raises(flags.Error, match="missing --checkpoint, --out"):
        command.parse(["segment", "--frames=f"])
    with pytest.raises(flags.Error, match="unexpected arguments .*stray"):
        command.parse(["segment", "stray"])
    with pytest.raises(SystemExit, match="error: Unknown command line flag 'frame'"):
        command.main(["segment", "--frame=f"])


def test_help_lists_the_flags(capsys):
    command.main(["segment", "--help"])
    printed = capsys.readouterr().out
    assert "--probabilities" in printed and "--config" in printed


def test_a_config_file_with_overrides_is_read(tmp_path):
    path = tmp_path / "config.py"
    path.write_text(
        "from ml_collections import ConfigDict\n"
        "def get_config(preset='quick'):\n"
        "    return ConfigDict({'model': {'name': preset, 'k': 1}})\n"
    )
    required = [f"--{name}=x" for name in ("checkpoint", "frames", "mask", "out")]
    argv = ["segment", f"--config={path}:paper", "--config.model.k=5", *required]
    assert command.parse(argv).config.model.to_dict() == {"name": "paper", "k": 5}
