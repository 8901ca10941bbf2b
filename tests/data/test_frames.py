import cv2
import numpy as np
import pytest

from tests.data.trees import frame, write_image
from vos_jax.data.frames import open_frames


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
    path = str(tmp_path / "v.avi")
    writer = cv2.VideoWriter(path, cv2.VideoWriter_fourcc(*"MJPG"), 10, (64, 48))
    for t in range(4):
        writer.write(np.ascontiguousarray(frame(t)[..., ::-1]))
    writer.release()
    source = open_frames(path)
    found = list(source)
    assert (source.length, source.size) == (4, (48, 64))
    assert [stem for stem, _ in found] == ["00000", "00001", "00002", "00003"]
    assert np.abs(found[2][1].astype(int) - frame(2)).mean() < 8


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
