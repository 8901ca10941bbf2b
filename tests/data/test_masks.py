import numpy as np
import pytest
from PIL import Image

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


def test_more_ids_than_any_video_has_are_refused(tmp_path):
    path = save(tmp_path / "m.png", np.repeat(np.arange(80, dtype=np.uint8), 20).reshape(40, 40))
    with pytest.raises(ValueError, match="at most 64"):
        read_mask(path)


def test_a_mask_of_another_size_than_its_frame_is_refused(tmp_path):
    path = save(tmp_path / "m.png", IDS)
    with pytest.raises(ValueError, match=r"m\.png: the mask is 16x20 .* frame is 32x40"):
        read_mask(path, size=(32, 40))


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
