import pickle

import cv2
import numpy as np
import pytest

from tests.data.image_bytes import encoded, grey_png
from tests.data.trees import SIZE, frame, images_tree, labels, same
from vos_jax.data.image_file import upright
from vos_jax.data.images import open_images, read_pair_mask
from vos_jax.data.masks import davis_palette, write_mask
from vos_jax.data.sources import open_sources


def test_a_pair_is_a_video_of_one_frame_with_the_object_above_128(tmp_path):
    videos = open_images(images_tree(tmp_path))
    assert [video.name for video in videos] == ["im0", "im1", "im2"]
    video = videos[1]
    assert (len(video), video.dataset, video.ids.tolist()) == (1, "images", [1])
    assert video.given.tolist() == [[True]] and video.scored.tolist() == [[False]]
    assert (video.mask(0) == (labels(1) == 1)).all()
    assert video.original_size == SIZE and video.clip().frames.shape == (1, *SIZE, 3)


@pytest.mark.parametrize(
    "images, masks",
    [
        ("DUTS-TR-Image", "DUTS-TR-Mask"),
        ("Imgs", "Imgs"),
        ("imgs", "gt"),
        ("images", "ground_truth_mask"),
        ("JPEGImages", "Annotations"),
        (".", "."),
    ],
)
def test_published_folder_names_are_found(tmp_path, images, masks):
    videos = open_images(images_tree(tmp_path, images, masks))
    assert len(videos) == 3 and (videos[2].mask(0) == (labels(2) == 1)).all()


def test_palette_masks_are_label_maps_with_several_objects(tmp_path):
    images_tree(tmp_path)
    ids = labels(0, (3, 8))
    ids[0] = 255
    write_mask(tmp_path / "masks/im0.png", ids)
    video = open_images(tmp_path)[0]
    assert video.ids.tolist() == [3, 8] and (video.mask(0) == ids).all()
    assert cv2.imwrite(str(tmp_path / "masks/im1.png"), davis_palette()[ids][..., ::-1])
    assert (open_images(tmp_path)[1].mask(0) == ids).all()


def test_grey_masks_of_every_file_type_mean_the_same(tmp_path):
    from PIL import Image

    inside = labels(0) > 0
    white = Image.fromarray(np.where(inside, 255, 0).astype(np.uint8))
    ramp = white.copy()
    ramp.putpalette([value for value in range(256) for _ in range(3)])
    for number, image in enumerate((white, white.convert("1"), white.convert("RGB"), ramp)):
        image.save(tmp_path / f"{number}.png")
        assert (read_pair_mask(tmp_path / f"{number}.png") == inside).all()
    white.save(tmp_path / "blurred.jpg")
    assert (read_pair_mask(tmp_path / "blurred.jpg") == inside).mean() > 0.99


@pytest.mark.parametrize("bits", [2, 4, 16])
def test_saliency_maps_of_other_depths_mean_the_same(tmp_path, bits):
    inside = labels(0) > 0
    (tmp_path / "m.png").write_bytes(grey_png(np.where(inside, 2**bits - 1, 0), bits))
    assert (read_pair_mask(tmp_path / "m.png") == inside).all()


@pytest.mark.parametrize("turn", [6, 8])
def test_a_mask_of_a_photo_on_its_side_is_turned_with_it(tmp_path, turn):
    root = images_tree(tmp_path, count=1)
    (root / "images/im0.jpg").write_bytes(encoded(frame(0), "JPEG", turn))
    clip = open_images(root)[0].clip()
    assert clip.frames.shape[1:3] == SIZE[::-1]
    np.testing.assert_array_equal(clip.masks[0], upright(labels(0) == 1, turn))


def test_a_mask_of_a_photo_on_its_head_cannot_tell_how_it_lies(tmp_path):
    root = images_tree(tmp_path, count=1)
    (root / "images/im0.jpg").write_bytes(encoded(frame(0), "JPEG", turn=3))
    with pytest.raises(ValueError, match=r"im0\.png: its frame is turned \(EXIF orientation 3\)"):
        open_images(root)[0].clip()


def test_masks_without_any_object_are_empty_but_dark_ones_are_refused(tmp_path):
    images_tree(tmp_path)
    assert cv2.imwrite(str(tmp_path / "masks/im0.png"), np.zeros(SIZE, np.uint8))
    assert cv2.imwrite(str(tmp_path / "masks/im1.png"), labels(0))
    videos = open_images(tmp_path)
    assert videos[0].ids.tolist() == []
    with pytest.raises(ValueError, match=r"im1\.png: .*nothing above 2 .*palette PNG"):
        videos[1].mask(0)


def test_a_list_chooses_images_and_sources_need_no_split(tmp_path):
    images_tree(tmp_path)
    (tmp_path / "few.txt").write_text("im2\nim0\n")
    assert [video.name for video in open_images(tmp_path, "few")] == ["im2", "im0"]
    data = {"train": {"s": {"kind": "images", "dir": str(tmp_path)}}}
    assert len(open_sources(data, "train")[0].videos) == 3
    with pytest.raises(FileNotFoundError, match=r"train\.txt: no such list.*splits: all, few"):
        open_images(tmp_path, "train")
    (tmp_path / "few.txt").write_text("im7\n")
    with pytest.raises(FileNotFoundError, match=r"few\.txt: expected the stems.*im7"):
        open_images(tmp_path, "few")


def test_folders_can_be_named_and_must_be_where_names_do_not_tell(tmp_path):
    images_tree(tmp_path, "photos", "outlines")
    with pytest.raises(ValueError, match=r"found for images none.*among outlines, photos; name"):
        open_images(tmp_path)
    assert len(open_images(tmp_path, images="photos", masks="outlines")) == 3
    with pytest.raises(FileNotFoundError, match=r"fotos: no such folder; .*option images"):
        open_images(tmp_path, images="fotos", masks="outlines")
    with pytest.raises(FileNotFoundError, match=r"nowhere: no such folder"):
        open_images(tmp_path / "nowhere")


def test_images_and_masks_without_partner_are_named(tmp_path):
    images_tree(tmp_path)
    (tmp_path / "masks/im1.png").rename(tmp_path / "masks/other.png")
    message = r"masks: .*images without mask: im1; masks without image: other"
    with pytest.raises(FileNotFoundError, match=message):
        open_images(tmp_path)


def test_unreadable_and_missing_masks_are_named(tmp_path):
    video = open_images(images_tree(tmp_path))[0]
    (tmp_path / "masks/im0.png").write_bytes(b"broken")
    with pytest.raises(ValueError, match=r"im0\.png: cannot be read as an image"):
        video.mask(0)
    (tmp_path / "masks/im0.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"im0\.png: no such mask file"):
        video.mask(0)


def test_opening_decodes_no_image(tmp_path, monkeypatch):
    images_tree(tmp_path)
    monkeypatch.setattr(cv2, "imdecode", None)
    monkeypatch.setattr("PIL.Image.open", None)
    assert len(open_images(tmp_path)) == 3


def test_videos_pickle(tmp_path):
    for video in open_images(images_tree(tmp_path)):
        assert same(video, pickle.loads(pickle.dumps(video)))
