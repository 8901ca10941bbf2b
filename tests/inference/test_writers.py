import cv2
import numpy as np
import pytest
from PIL import Image

from vos_jax.data.masks import davis_palette, read_mask
from vos_jax.inference import overlay as overlay_module
from vos_jax.inference.overlay import OverlayWriter, overlay
from vos_jax.inference.writers import FrameResult, MapWriter, MaskWriter, ProbabilityWriter

SIZE = (12, 17)


def result(t, ids=(9, 2)):
    """Frame t with random labels; object i has probability i everywhere, the background 0.5."""
    rng = np.random.default_rng(t)
    frame = rng.integers(0, 256, (*SIZE, 3)).astype(np.uint8)
    labels = rng.choice([0, *ids], SIZE).astype(np.uint8)
    channels = np.stack([np.full(SIZE, value, np.float32) for value in (0.5, *ids)])
    return FrameResult(f"{t:05d}", frame, labels, ids, lambda: channels)


def test_masks_come_back_as_written_in_the_davis_palette(tmp_path):
    with MaskWriter(tmp_path / "out") as writer:
        writer.write(result(0))
        # Written as it comes, not at the end.
        np.testing.assert_array_equal(read_mask(tmp_path / "out/00000.png"), result(0).labels)
    image = Image.open(tmp_path / "out/00000.png")
    assert image.mode == "P"
    assert image.getpalette()[3:6] == davis_palette()[1].tolist()


@pytest.mark.parametrize("writer", [MaskWriter, lambda path, **kw: MapWriter(path, [1], **kw)])
def test_a_folder_with_content_is_refused_unless_told(tmp_path, writer):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="not empty.*notes.txt.*--overwrite"):
        writer(tmp_path)
    writer(tmp_path, overwrite=True).write(result(0, ids=(1,)))
    assert (tmp_path / "notes.txt").exists()


def test_probabilities_are_ordered_by_id_and_zero_before_an_object_appears(tmp_path):
    path = tmp_path / "new/probabilities.npz"
    with ProbabilityWriter(path, [2, 9], 2, SIZE) as writer:
        writer.write(result(0, ids=(9,)))
        writer.write(result(1, ids=(9, 2)))
    with np.load(path) as stored:
        probabilities, ids = stored["probabilities"], stored["ids"]
    assert probabilities.dtype == np.float32 and probabilities.shape == (2, 3, *SIZE)
    assert ids.tolist() == [2, 9]
    assert probabilities[:, :, 3, 4].tolist() == [[0.5, 0, 9], [0.5, 2, 9]]
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_frames_before_an_interruption_are_kept(tmp_path):
    path = tmp_path / "probabilities.npz"
    with pytest.raises(KeyboardInterrupt), ProbabilityWriter(path, [2, 9], 100, SIZE) as writer:
        writer.write(result(0))
        raise KeyboardInterrupt
    assert np.load(path)["probabilities"].shape == (1, 3, *SIZE)


def test_too_many_probabilities_are_refused_before_anything_is_written(tmp_path):
    path = tmp_path / "probabilities.npz"
    with pytest.raises(ValueError, match=r"1000 frames x 3 channels.*4\.9 GB.*2 GB.*--maps DIR"):
        ProbabilityWriter(path, [1, 2], 1000, (480, 854))
    assert not path.exists()


def test_an_existing_probability_file_is_kept_unless_told(tmp_path):
    path = tmp_path / "probabilities.npz"
    path.write_text("mine")
    with pytest.raises(FileExistsError, match="probabilities.npz exists.*--overwrite"):
        ProbabilityWriter(path, [1], 1, SIZE)
    with ProbabilityWriter(path, [1], 1, SIZE, overwrite=True) as writer:
        writer.write(result(0, ids=(1,)))
    assert np.load(path)["ids"].tolist() == [1]


def test_an_unannounced_object_is_refused(tmp_path):
    with ProbabilityWriter(tmp_path / "p.npz", [2], 1, SIZE) as writer:
        with pytest.raises(ValueError, match=r"00003: objects \[9\].*announced ids \[2\]"):
            writer.write(result(3))


def test_maps_hold_one_frame_each_with_all_channels(tmp_path):
    with MapWriter(tmp_path / "maps", [2, 4, 9]) as writer:
        writer.write(result(0))
        with np.load(tmp_path / "maps/00000.npz") as stored:
            assert stored["probabilities"][:, 0, 0].tolist() == [0.5, 2, 0, 9]
            assert stored["ids"].tolist() == [2, 4, 9]


def test_overlay_mixes_inside_outlines_and_leaves_the_rest():
    frame = np.full((9, 9, 3), 100, np.uint8)
    labels = np.zeros((9, 9), np.uint8)
    labels[2:7, 2:7] = 1
    labels[0, 0] = 255
    painted = overlay(frame, labels)
    colour = davis_palette()[1]
    assert painted[2, 4].tolist() == colour.tolist()
    assert painted[4, 4].tolist() == [114, 50, 50]  # halfway between 100 and (128, 0, 0)
    assert (painted[labels != 1] == 100).all()
    assert (frame == 100).all()


def test_mp4_has_every_frame_in_the_colours_of_the_overlay(tmp_path):
    frame = np.zeros((49, 65, 3), np.uint8)
    frame[..., 0] = 200  # red: a mix-up of RGB and BGR would show
    with OverlayWriter(tmp_path / "o.mp4") as writer:
        for t in range(3):
            writer.write(FrameResult(str(t), frame, np.zeros((49, 65), np.uint8)))
    video = cv2.VideoCapture(str(tmp_path / "o.mp4"))
    frames = []
    while (read := video.read())[0]:
        frames.append(read[1])
    assert len(frames) == 3 and frames[0].shape == (50, 66, 3)
    assert np.abs(frames[0][20, 20].astype(int) - [0, 0, 200]).max() < 20


def test_gif_drops_frames_evenly_once_it_is_full(tmp_path, monkeypatch):
    monkeypatch.setattr(overlay_module, "GIF_FRAMES", 4)
    with OverlayWriter(tmp_path / "o.gif") as writer:
        for t in range(9):
            frame = np.full((*SIZE, 3), 20 * t, np.uint8)
            writer.write(FrameResult(str(t), frame, np.zeros(SIZE, np.uint8)))
    gif, found = Image.open(tmp_path / "o.gif"), []
    for i in range(gif.n_frames):
        gif.seek(i)
        found.append(gif.convert("RGB").getpixel((0, 0))[0] // 20)
    assert found == [0, 4, 8]
    assert abs(gif.info["duration"] - 4000 / 24) < 10  # four frames' time, in units of 10 ms


def test_overlays_go_to_a_folder_of_png(tmp_path):
    with OverlayWriter(tmp_path / "frames") as writer:
        writer.write(result(5))
    expected = overlay(result(5).frame, result(5).labels)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "frames/00005.png")), expected)


def test_unknown_ending_and_existing_overlay_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"\.mp4, \.gif or.*'\.avi'"):
        OverlayWriter(tmp_path / "o.avi")
    (tmp_path / "o.gif").write_text("mine")
    with pytest.raises(FileExistsError, match="o.gif exists"):
        OverlayWriter(tmp_path / "o.gif")


def test_a_missing_codec_names_the_way_out(tmp_path, monkeypatch):
    monkeypatch.setattr(overlay_module.cv2, "VideoWriter", _NoCodec)
    with OverlayWriter(tmp_path / "o.mp4") as writer:
        with pytest.raises(ValueError, match="cannot write MPEG-4.*.gif or a folder"):
            writer.write(result(0))


class _NoCodec:
    def __init__(self, *_):
        pass

    def isOpened(self):
        return False
