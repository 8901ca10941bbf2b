import io

import cv2
import numpy as np
import pytest
from PIL import Image

from tests.data.image_bytes import encoded, grey_png
from vos_jax.data.image_file import upright
from vos_jax.data.masks import davis_palette, read_mask, write_mask

IDS = np.kron(np.array([[0, 1], [2, 3]], np.uint8), np.ones((8, 10), np.uint8))


def save(path, array, mode=None, palette=False):
    image = Image.fromarray(array)
    if mode:
        image = image.convert(mode)
    if palette:
        image.putpalette(davis_palette().tobytes())
    image.save(path)
    return path


def test_palette_starts_with_the_known_colours_and_has_no_duplicate():
    palette = davis_palette()
    known = [(0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 0, 128), (128, 0, 128)]
    assert palette[:6].tolist() == [list(colour) for colour in known]
    assert palette[255].tolist() == [224, 224, 192]
    assert len(np.unique(palette, axis=0)) == 256


def test_written_masks_are_palette_pngs_and_read_back_exactly(tmp_path):
    values = np.arange(256, dtype=np.uint8)
    ids = np.where(np.arange(64) % 2, 255, values[:64] % 60).reshape(8, 8).astype(np.uint8)
    write_mask(tmp_path / "m.png", ids)
    image = Image.open(tmp_path / "m.png")
    assert image.mode == "P"
    assert image.getpalette()[3:6] == [128, 0, 0]
    big = np.kron(IDS + 200, np.ones((4, 4), np.uint8))
    write_mask(tmp_path / "b.png", big)
    assert (read_mask(tmp_path / "b.png") == big).all()


@pytest.mark.parametrize("kind", ["palette", "grey", "rgb", "rgba", "16-bit"])
def test_every_type_of_clean_mask_gives_the_same_ids(tmp_path, kind):
    path = tmp_path / "m.png"
    colours = davis_palette()[IDS]
    if kind == "palette":
        save(path, IDS, palette=True)
    elif kind == "grey":
        save(path, IDS)
    elif kind == "rgb":
        save(path, colours)
    elif kind == "rgba":
        save(path, np.dstack([colours, np.full(IDS.shape, 255, np.uint8)]))
    else:
        save(path, IDS.astype(np.uint16))
    found = read_mask(path, size=IDS.shape)
    assert found.dtype == np.uint8
    assert (found == IDS).all()


def test_one_bit_masks_are_background_and_object_one(tmp_path):
    path = save(tmp_path / "m.png", np.where(IDS > 1, 255, 0).astype(np.uint8), mode="1")
    assert (read_mask(path) == (IDS > 1)).all()


@pytest.mark.parametrize("colour", [False, True])
def test_black_and_white_masks_need_a_decision(tmp_path, colour):
    white = np.where(IDS > 1, 255, 0).astype(np.uint8)
    path = save(tmp_path / "m.png", np.stack([white] * 3, -1) if colour else white)
    with pytest.raises(ValueError, match=r"m\.png.*only 0 and 255.*binary=True"):
        read_mask(path)
    assert (read_mask(path, binary=True) == (IDS > 1)).all()
    assert (read_mask(path, binary=False) == white).all()


def test_binary_merges_objects_and_keeps_void(tmp_path):
    ids = IDS.copy()
    ids[0] = 255
    path = save(tmp_path / "m.png", ids, palette=True)
    expected = np.where(ids == 255, 255, ids > 0)
    assert (read_mask(path, binary=True) == expected).all()


def test_void_in_a_palette_mask_is_kept(tmp_path):
    path = save(tmp_path / "m.png", np.where(IDS > 1, 255, 0).astype(np.uint8), palette=True)
    assert set(np.unique(read_mask(path))) == {0, 255}


def test_foreign_colours_are_refused_with_their_place(tmp_path):
    colours = davis_palette()[IDS].copy()
    colours[3, 4] = (12, 200, 7)
    path = save(tmp_path / "m.png", colours)
    with pytest.raises(ValueError, match=r"m\.png.*\(12, 200, 7\) at row 3, column 4.*palette"):
        read_mask(path)


def test_partly_transparent_masks_are_refused(tmp_path):
    alpha = np.full(IDS.shape, 255, np.uint8)
    alpha[0, 0] = 100
    path = save(tmp_path / "m.png", np.dstack([davis_palette()[IDS], alpha]))
    with pytest.raises(ValueError, match="partly transparent"):
        read_mask(path)


def test_sixteen_bit_masks_with_large_values_are_refused(tmp_path):
    path = save(tmp_path / "m.png", IDS.astype(np.uint16) * 1000)
    with pytest.raises(ValueError, match=r"m\.png.*0\.\.254.*0\.\.3000"):
        read_mask(path)


def test_smoothed_masks_are_refused_as_anti_aliased(tmp_path):
    y, x = np.mgrid[:100, :100]
    soft = np.clip(40 - np.hypot(y - 50, x - 50), 0, 1) * 255
    path = save(tmp_path / "m.png", np.rint(soft).astype(np.uint8))
    with pytest.raises(ValueError, match=r"m\.png.*anti-aliased.*nearest neighbour"):
        read_mask(path, binary=True)


def disc(value, soft=0.0):
    """A disc of `value` in 200x300 pixels, its border `soft` pixels wide."""
    y, x = np.mgrid[:200, :300]
    inside = 70 - np.hypot(y - 100, x - 120)
    return np.rint(np.clip(inside / soft if soft else np.sign(inside), 0, 1) * value)


def compressed(mask, quality):
    buffer = io.BytesIO()
    Image.fromarray(mask).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer))


SPOILT = {
    "anti-aliased": disc(200, soft=3),
    "blurred": cv2.GaussianBlur(disc(250), (0, 0), 4),
    "shrunk": cv2.resize(disc(250), None, fx=0.37, fy=0.37, interpolation=cv2.INTER_AREA),
    "enlarged": cv2.resize(disc(250), None, fx=4, fy=4, interpolation=cv2.INTER_CUBIC),
    "compressed little": compressed(disc(111).astype(np.uint8), 95),
    "compressed much": compressed(disc(111).astype(np.uint8), 60),
    "a depth map": np.tile(np.linspace(0, 254, 300), (200, 1)),
    "noise": np.random.default_rng(0).integers(0, 254, (200, 300)),
}


@pytest.mark.parametrize("name", SPOILT)
def test_values_that_smoothing_and_compression_add_are_refused(tmp_path, name):
    values = np.clip(SPOILT[name], 0, 254).astype(np.uint8)
    path = save(tmp_path / "m.png", values, palette=True)
    with pytest.raises(ValueError, match=r"m\.png: expected clean object ids, found \d+ values"):
        read_mask(path)


def drawn(height, width, gap, count=254):
    """Boxes in rows, numbered from 1."""
    labels, key = np.zeros((200, 300), np.uint8), 0
    for y in range(2, 200 - height, height + gap):
        for x in range(2, 300 - width, width + gap):
            key += key < count
            labels[y : y + height, x : x + width] = key
            if key == count:
                return labels
    return labels


def discs(count):
    """Discs of all sizes that cover each other."""
    rng, labels = np.random.default_rng(0), np.zeros((200, 300), np.uint8)
    for key in range(count):
        centre = (int(rng.integers(300)), int(rng.integers(200)))
        cv2.circle(labels, centre, int(rng.integers(1, 20)), key + 1, -1)
    return labels


DRAWN = {
    "254 objects": drawn(6, 7, gap=1),
    "40 small ones": drawn(3, 4, gap=6, count=40),
    "30 single pixels": drawn(1, 1, gap=9, count=30),
    "20 thin ones": drawn(1, 12, gap=3, count=20),
    "cells that touch": drawn(4, 5, gap=0),
    "books on a shelf": np.repeat(np.arange(60, dtype=np.uint8), 5)[None].repeat(200, axis=0),
    "a crowd": discs(200),
}


@pytest.mark.parametrize("name", DRAWN)
def test_many_and_small_objects_are_read_as_drawn(tmp_path, name):
    assert len(np.unique(DRAWN[name])) > 19
    write_mask(tmp_path / "m.png", DRAWN[name])
    np.testing.assert_array_equal(read_mask(tmp_path / "m.png"), DRAWN[name])


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_grey_files_of_any_depth_hold_the_ids_themselves(tmp_path, bits):
    ids = np.minimum(IDS.astype(int), 2**bits - 1)
    (tmp_path / "m.png").write_bytes(grey_png(ids, bits))
    np.testing.assert_array_equal(read_mask(tmp_path / "m.png"), ids)


@pytest.mark.parametrize("bits", [2, 4])
def test_black_and_white_of_few_bits_needs_a_decision_too(tmp_path, bits):
    white = np.where(IDS > 1, 2**bits - 1, 0)
    (tmp_path / "m.png").write_bytes(grey_png(white, bits))
    with pytest.raises(ValueError, match="only 0 and 255"):
        read_mask(tmp_path / "m.png")
    assert (read_mask(tmp_path / "m.png", binary=True) == (IDS > 1)).all()


def test_a_grey_map_of_one_object_with_grades_is_refused(tmp_path):
    path = save(tmp_path / "m.png", np.array([0, 128, 255, 0], np.uint8)[IDS])
    with pytest.raises(ValueError, match=r"holds 255 and 1 other values, the first 128"):
        read_mask(path, binary=True)


def reordered(path, order):
    """IDS as a tool stores them that makes order[i] its index i, with the colours of the ids."""
    indices = np.argsort(order)[IDS].astype(np.uint8)
    image = Image.fromarray(indices)
    image.putpalette(davis_palette()[list(order)].tobytes())
    image.save(path)


@pytest.mark.parametrize("binary", [None, True])
def test_a_palette_that_contradicts_its_indices_is_refused(tmp_path, binary):
    reordered(tmp_path / "m.png", (0, 2, 1, 3))
    with pytest.raises(ValueError, match=r"m\.png: .*index 1 has the DAVIS colour of id 2"):
        read_mask(tmp_path / "m.png", binary=binary)
    reordered(tmp_path / "m.png", (0, 1, 2, 3))
    np.testing.assert_array_equal(read_mask(tmp_path / "m.png"), IDS)


def test_one_compacted_object_is_refused_and_its_colours_are_read_after_the_named_repair(tmp_path):
    image = Image.fromarray((IDS > 1).astype(np.uint8))
    image.putpalette(davis_palette()[[0, 8]].tobytes())
    image.save(tmp_path / "m.png")
    with pytest.raises(ValueError, match="index 1 has the DAVIS colour of id 8.*color-type=2"):
        read_mask(tmp_path / "m.png")
    image.convert("RGB").save(tmp_path / "m.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "m.png"), (IDS > 1) * 8)


@pytest.mark.parametrize("kind", ["greys", "other colours", "of the data set's own files"])
def test_palettes_that_say_nothing_about_ids_leave_the_indices(tmp_path, kind):
    palette = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, axis=1)
    if kind == "other colours":
        palette = np.roll(palette, 1, axis=1) + np.array([3, 50, 9], np.uint8)
    elif kind.startswith("of"):
        palette = np.where(davis_palette() == 192, 191, davis_palette())
        palette[22:] = np.arange(22, 256)[:, None]
    labels = np.array([0, 1, 64, 128], np.uint8)[IDS]
    image = Image.fromarray(labels)
    image.putpalette(palette.astype(np.uint8).tobytes())
    image.save(tmp_path / "m.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "m.png"), labels)


@pytest.mark.parametrize("turn", [5, 6, 7, 8])
def test_a_mask_of_a_frame_on_its_side_may_lie_like_the_frame_or_like_its_file(tmp_path, turn):
    """IDS lies like the file; the upright frame is 20x16."""
    expected = upright(IDS, turn)
    for stored in (IDS, expected):
        path = save(tmp_path / "m.png", stored, palette=True)
        np.testing.assert_array_equal(read_mask(path, size=(20, 16), turn=turn), expected)
    path.write_bytes(encoded(IDS, "PNG", turn))
    np.testing.assert_array_equal(read_mask(path, size=(20, 16), turn=turn), expected)


@pytest.mark.parametrize("turn", [2, 3, 4])
def test_a_mask_that_cannot_tell_how_it_lies_is_refused_unless_its_own_exif_does(tmp_path, turn):
    path = save(tmp_path / "m.png", IDS, palette=True)
    with pytest.raises(ValueError, match=rf"m\.png: .*EXIF orientation {turn}.*auto-orient"):
        read_mask(path, size=IDS.shape, turn=turn)
    path.write_bytes(encoded(IDS, "PNG", turn))
    found = read_mask(path, size=IDS.shape, turn=turn)
    np.testing.assert_array_equal(found, upright(IDS, turn))


def test_a_square_mask_on_its_side_cannot_tell_either(tmp_path):
    path = save(tmp_path / "m.png", IDS[:, :16], palette=True)
    with pytest.raises(ValueError, match="EXIF orientation 6"):
        read_mask(path, size=(16, 16), turn=6)


def test_a_mask_of_another_size_than_its_frame_is_refused(tmp_path):
    path = save(tmp_path / "m.png", IDS)
    with pytest.raises(ValueError, match=r"m\.png: the mask is 16x20 .* frame is 32x40"):
        read_mask(path, size=(32, 40))
    with pytest.raises(ValueError, match="it lies on its side"):
        read_mask(path, size=(20, 16))


def test_missing_broken_and_lossy_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.png"):
        read_mask(tmp_path / "none.png")
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(ValueError, match=r"text\.png: cannot be read"):
        read_mask(tmp_path / "text.png")
    save(tmp_path / "m.jpg", IDS)
    with pytest.raises(ValueError, match=r"m\.jpg: .*lossless.*PNG"):
        read_mask(tmp_path / "m.jpg")


def test_writing_refuses_what_is_not_a_label_map(tmp_path):
    with pytest.raises(ValueError, match=r"out\.png.*0\.\.255.*0\.\.300"):
        write_mask(tmp_path / "out.png", np.array([[0, 300]]))
    with pytest.raises(ValueError, match=r"shape \(2, 2, 3\)"):
        write_mask(tmp_path / "out.png", np.zeros((2, 2, 3), np.uint8))
