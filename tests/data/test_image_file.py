"""What is an image, whether it is whole and how it is turned: the same rule for all readers."""

import struct

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from tests.data.image_bytes import encoded, grey_png, png
from vos_jax.data import frames, images, masks
from vos_jax.inference.verification import read_values

READERS = {
    "frame": frames.read_image,
    "mask": masks.read_mask,
    "pair": images.read_pair_mask,
    "submission": read_values,
}
IDS = np.kron(np.array([[0, 1], [2, 3]], np.uint8), np.ones((8, 10), np.uint8))
PHOTO = np.random.default_rng(0).integers(0, 255, (24, 40, 3)).astype(np.uint8)


def refused(read, path) -> str:
    with pytest.raises(ValueError) as error:
        read(path)
    assert "BytesIO" not in str(error.value) and str(path) in str(error.value)
    return str(error.value)


@pytest.fixture(params=READERS)
def read(request):
    return READERS[request.param]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "file.png"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file is empty"),
        (b"no image at all", "cannot be read as an image"),
        (encoded(IDS, "PNG")[:-1], "cut off: the end of the PNG is missing"),
        (encoded(IDS, "PNG")[:60], "cut off"),
        (grey_png(IDS, 8)[:50] + b"x" + grey_png(IDS, 8)[51:], "the checksum of its part IDAT"),
        (png(struct.pack(">IIBBBBB", 50000, 50000, 8, 0, 0, 0, 0), b""), "claims to be larger"),
    ],
)
def test_no_image_a_cut_a_damaged_and_a_hostile_one_are_refused_by_all(read, path, content, reason):
    path.write_bytes(content)
    assert reason in refused(read, path)


def test_a_missing_file_and_a_folder_are_told_apart(read, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.png: no such"):
        read(tmp_path / "none.png")
    assert "is a folder" in refused(read, tmp_path)


@pytest.mark.parametrize("share", [0.3, 0.8, 0.99])
@pytest.mark.parametrize("progressive", [False, True])
def test_a_cut_jpeg_is_refused_although_decoders_fill_it_with_grey(tmp_path, share, progressive):
    data = encoded(np.kron(PHOTO, np.ones((9, 9, 1), np.uint8)), "JPEG", progressive=progressive)
    (tmp_path / "a.jpg").write_bytes(data)
    assert frames.read_image(tmp_path / "a.jpg").shape == (216, 360, 3)
    (tmp_path / "a.jpg").write_bytes(data[: int(share * len(data))])
    assert "cut off" in refused(frames.read_image, tmp_path / "a.jpg")


def test_a_thumbnail_in_a_cut_jpeg_is_not_taken_for_its_end(tmp_path):
    whole = encoded(np.kron(PHOTO, np.ones((9, 9, 1), np.uint8)), "JPEG")
    thumbnail = encoded(PHOTO, "JPEG")
    part = b"\xff\xe1" + struct.pack(">H", len(thumbnail) + 2) + thumbnail
    with_thumbnail = whole[:2] + part + whole[2:]
    (tmp_path / "a.jpg").write_bytes(with_thumbnail + b"a film of the same moment")
    assert frames.read_image(tmp_path / "a.jpg").shape == (216, 360, 3)
    (tmp_path / "a.jpg").write_bytes(with_thumbnail[: len(with_thumbnail) // 2])
    assert "cut off" in refused(frames.read_image, tmp_path / "a.jpg")


@pytest.mark.parametrize("kind", ["TIFF", "BMP", "WEBP", "PPM"])
def test_cut_frames_of_other_kinds_are_refused(tmp_path, kind):
    path = tmp_path / f"a.{kind.lower()}"
    data = encoded(PHOTO, kind)
    path.write_bytes(data)
    assert frames.read_image(path).shape == PHOTO.shape
    path.write_bytes(data[: len(data) * 2 // 3])
    refused(frames.read_image, path)


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_frames_are_turned_as_their_exif_says(tmp_path, turn, kind):
    path = tmp_path / f"a.{kind.lower()}"
    smooth = np.kron(PHOTO[:3, :5], np.ones((16, 16, 1), np.uint8))
    path.write_bytes(encoded(smooth, kind, turn, **({"quality": 95} if kind == "JPEG" else {})))
    found = frames.read_image(path)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(path)))
    np.testing.assert_allclose(found.astype(int), expected, atol=3)
    assert frames.image_facts(path) == (expected.shape[:2], turn)


def test_a_tiff_with_an_orientation_is_refused_since_decoders_do_not_agree(tmp_path):
    (tmp_path / "a.tif").write_bytes(encoded(PHOTO, "TIFF", turn=6))
    assert "turn it for good" in refused(frames.read_image, tmp_path / "a.tif")


def test_a_float_image_is_refused_as_what_it_is(tmp_path):
    Image.fromarray(np.zeros((8, 8), np.float32)).save(tmp_path / "a.tif")
    assert "mode F" in refused(frames.read_image, tmp_path / "a.tif")


def test_sixteen_bits_that_hold_twelve_are_refused_and_all_sixteen_are_read(tmp_path):
    ramp = (np.arange(64 * 64).reshape(64, 64)).astype(np.uint16)
    (tmp_path / "a.png").write_bytes(grey_png(ramp, 16))
    message = refused(frames.read_image, tmp_path / "a.png")
    assert "values end at 4095 of 65535" in message and "of 12 bits" in message
    assert "multiply 16" in message
    wide = np.stack([ramp] * 3, axis=-1)
    assert cv2.imwrite(str(tmp_path / "a.png"), wide)
    assert "values end at 4095 of 65535" in refused(frames.read_image, tmp_path / "a.png")
    assert cv2.imwrite(str(tmp_path / "a.png"), wide * 16)
    assert (frames.read_image(tmp_path / "a.png") == wide // 16).all()
    (tmp_path / "a.png").write_bytes(grey_png(ramp * 16, 16))
    assert (frames.read_image(tmp_path / "a.png")[..., 0] == ramp // 16).all()
    (tmp_path / "a.png").write_bytes(grey_png(ramp * 0, 16))
    assert not frames.read_image(tmp_path / "a.png").any()
