import struct

import cv2
import numpy as np
import pytest

from tests.data.trees import frame, write_image, write_video
from vos_jax.data.folders import frames_of
from vos_jax.data.frames import in_order, open_frames


def test_folder_frames_come_in_natural_order_and_as_rgb(tmp_path):
    for number in (10, 2, 1):
        write_image(tmp_path / f"f{number}.png", frame(number))
    (tmp_path / "notes.txt").write_text("x")
    source = open_frames(tmp_path)
    assert (source.length, source.size) == (3, (48, 64))
    found = list(source)
    assert [stem for stem, _ in found] == ["f1", "f2", "f10"]
    assert all((image == frame(n)).all() for (_, image), n in zip(found, (1, 2, 10), strict=True))
    assert len(list(source)) == 3


def test_video_frames_are_numbered_from_zero(tmp_path):
    source = open_frames(write_video(tmp_path / "v.avi", frames=4, fps=10))
    found = list(source)
    assert (source.length, source.size, source.fps) == (4, (48, 64), 10)
    assert [stem for stem, _ in found] == ["00000", "00001", "00002", "00003"]
    assert np.abs(found[2][1].astype(int) - frame(2)).mean() < 8


def test_a_cut_video_tells_how_many_frames_it_promised_and_how_many_there_were(tmp_path, capsys):
    path = write_video(tmp_path / "v.avi", frames=30)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    count = len(list(open_frames(path)))
    assert 5 < count < 30
    said = capsys.readouterr().err
    assert f"v.avi: ended after {count} frames, its header tells 30: is the file cut off" in said


def test_a_whole_video_tells_nothing(tmp_path, capsys):
    assert len(list(open_frames(write_video(tmp_path / "v.avi", frames=5)))) == 5
    assert capsys.readouterr().err == ""


def test_an_impossible_count_in_a_header_is_not_believed(tmp_path):
    path = write_video(tmp_path / "v.avi", frames=5)
    data = bytearray(path.read_bytes())
    at = data.index(b"strh") + 8 + 32
    data[at : at + 4] = struct.pack("<I", 2**30)
    path.write_bytes(data)
    source = open_frames(path)
    assert source.length is None and len(list(source)) == 5


class Holed:
    """A video whose frame 2 cannot be decoded, but all others can."""

    def __init__(self, path):
        self.reads = 0

    def read(self):
        self.reads += 1
        good = self.reads != 3 and self.reads <= 6
        return good, np.zeros((4, 6, 3), np.uint8) if good else None

    def get(self, field):
        return 0.0

    def release(self):
        pass


def test_a_frame_that_cannot_be_decoded_between_others_is_refused(tmp_path, monkeypatch):
    (tmp_path / "v.mp4").write_bytes(b"-" * 1000)
    monkeypatch.setattr(cv2, "VideoCapture", Holed)
    with pytest.raises(ValueError, match=r"v\.mp4: damaged: frame 2 cannot be decoded but later"):
        list(open_frames(tmp_path / "v.mp4"))


@pytest.mark.parametrize(
    "stems",
    [
        ["1", "2", "10"],
        ["0.0", "0.25", "0.5", "0.75", "1.0", "1.25", "10.5"],
        ["t=0.25s", "t=0.5s", "t=1.25s"],
        ["shot1.2", "shot1.9", "shot1.10", "shot1.11"],
        ["frame_2", "frame_10", "other_1"],
        ["a2b9", "a2b10", "a10b1"],
        ["000.5", "001.0", "010.5"],
    ],
)
def test_numbers_in_names_sort_by_their_value(tmp_path, stems):
    shuffled = [tmp_path / f"{stem}.png" for stem in sorted(stems, key=hash)]
    assert [file.stem for file in in_order(shuffled)] == stems


def test_hidden_files_folders_and_other_files_are_no_frames(tmp_path):
    write_image(tmp_path / "0.png", frame(0))
    write_image(tmp_path / "1.jpg", frame(1))
    (tmp_path / "1.jpg").rename(tmp_path / "1.JFIF")
    write_image(tmp_path / ".2.png", frame(2))
    (tmp_path / "old.jpg").mkdir()
    (tmp_path / "Thumbs.db").write_bytes(b"-")
    assert [stem for stem, _ in open_frames(tmp_path)] == ["0", "1"]


@pytest.mark.parametrize("ending", [".gif", ".HEIC", ".avif"])
def test_pictures_that_are_not_read_are_named_and_no_gaps(tmp_path, ending):
    write_image(tmp_path / "0.png", frame(0))
    (tmp_path / f"1{ending}").write_bytes(b"-")
    with pytest.raises(ValueError, match=rf"1{ending}: pictures of this kind are not read"):
        open_frames(tmp_path)
    with pytest.raises(ValueError, match="pictures of this kind are not read"):
        frames_of(tmp_path)


def test_empty_folder_and_missing_path_are_named(tmp_path):
    with pytest.raises(ValueError, match="holds no image"):
        open_frames(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"nowhere: no such folder"):
        open_frames(tmp_path / "nowhere")


def test_unreadable_frame_and_video_are_named(tmp_path):
    write_image(tmp_path / "0.png", frame(0))
    (tmp_path / "1.png").write_bytes(b"broken")
    with pytest.raises(ValueError, match=r"1\.png: cannot be read"):
        list(open_frames(tmp_path))
    (tmp_path / "v.mp4").write_bytes(b"broken")
    with pytest.raises(ValueError, match=r"v\.mp4: cannot be read as a video"):
        open_frames(tmp_path / "v.mp4")


def test_frame_of_another_size_is_named(tmp_path):
    write_image(tmp_path / "0.png", frame(0))
    write_image(tmp_path / "1.png", frame(1, (32, 64)))
    with pytest.raises(ValueError, match=r"1\.png: this frame is 32x64.*first one is 48x64"):
        list(open_frames(tmp_path))


def test_two_images_of_one_stem_are_refused(tmp_path):
    write_image(tmp_path / "0.png", frame(0))
    write_image(tmp_path / "0.jpg", frame(0))
    with pytest.raises(ValueError, match="would be the same frame"):
        open_frames(tmp_path)
