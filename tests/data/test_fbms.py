import pickle

import cv2
import numpy as np
import pytest

from tests.data.trees import SIZE, fbms_tree, labels, region_colours, same, write_definition
from tests.data.trees import write_image as write
from vos_jax.data.fbms import open_fbms, read_regions
from vos_jax.data.masks import write_mask
from vos_jax.data.sources import open_sources

WHITE, MAGENTA, CYAN = 0xFFFFFF, 0xFF00FF, 0x00FFFF
COLOURS = (WHITE, MAGENTA, CYAN)
TRUTH = "Testset/cats01/GroundTruth"


def grey_tree(root, name="cars1", greys=(0, 100, 255), definition=True):
    """A sequence whose ground truth is grey: labels 0, 1, 2 have the values `greys`."""
    folder = root / "Testset" / name
    for t in range(3):
        write(folder / f"{name}_{t + 1:02d}.jpg", np.zeros((*SIZE, 3), np.uint8))
    (folder / "GroundTruth").mkdir()
    for t in (0, 2):
        image = np.array(greys, np.uint8)[labels(t)]
        assert cv2.imwrite(str(folder / f"GroundTruth/{name}_{t + 1:02d}.pgm"), image)
    if definition:
        files = [f"{name}_01.pgm", f"{name}_03.pgm"]
        write_definition(folder / f"GroundTruth/{name}Def.dat", greys, files)
    return root


@pytest.mark.parametrize("values", [None, COLOURS])
def test_moving_objects_are_one_object_in_the_sparse_annotated_frames(tmp_path, values):
    (video,) = open_fbms(fbms_tree(tmp_path, annotated=(1, 3, 5), values=values), "test")
    assert (video.name, video.dataset, len(video)) == ("cats01", "fbms", 6)
    assert np.flatnonzero(video.annotated).tolist() == [1, 3, 5]
    assert video.ids.tolist() == [1] and video.original_size == SIZE
    assert np.flatnonzero(video.given[:, 0]).tolist() == [1]
    assert np.flatnonzero(video.scored[:, 0]).tolist() == [1, 3, 5]
    assert (video.mask(3) == (labels(3) > 0)).all()
    assert video.frame(0).shape == (*SIZE, 3)


def test_first_and_last_frames_are_scored(tmp_path):
    (video,) = open_fbms(fbms_tree(tmp_path), "test")
    assert video.scored[:, 0].tolist() == [True, False, False, True, False, True]


def test_opening_decodes_no_image(tmp_path, monkeypatch):
    fbms_tree(tmp_path, values=COLOURS)
    monkeypatch.setattr(cv2, "imdecode", None)
    monkeypatch.setattr("PIL.Image.open", None)
    assert len(open_fbms(tmp_path, "test")) == 1


def test_splits_are_the_two_folders(tmp_path):
    fbms_tree(fbms_tree(tmp_path), "lion02", split="Trainingset")
    assert [video.name for video in open_fbms(tmp_path, "train")] == ["lion02"]
    data = {"dir": str(tmp_path), "eval": {"f": {"kind": "fbms", "dir": ".", "split": "test"}}}
    assert open_sources(data, "eval")[0].videos[0].name == "cats01"
    with pytest.raises(ValueError, match=r"split one of \('train', 'test'\), got 'val'"):
        open_fbms(tmp_path, "val")


def test_grey_regions_are_merged_with_and_without_definition(tmp_path):
    for number, definition in enumerate((True, False)):
        root = grey_tree(tmp_path / str(number), definition=definition)
        (video,) = open_fbms(root, "test")
        assert video.annotated.tolist() == [True, False, True]
        assert (video.mask(2) == (labels(2) > 0)).all()


def test_still_regions_of_marple2_and_marple7_are_background(tmp_path):
    root = grey_tree(tmp_path, "marple7", greys=(0, 200, 5))
    (video,) = open_fbms(root, "test")
    assert (video.mask(0) == (labels(0) == 1)).all()
    (root / "Testset/marple7/GroundTruth/marple7Def.dat").unlink()
    with pytest.raises(FileNotFoundError, match=r"marple7Def\.dat: no such file; it is needed"):
        open_fbms(root, "test")


def test_unlisted_values_are_background_unless_nothing_is_listed(tmp_path):
    image = region_colours(labels(0))
    image[0, 0] = (1, 2, 3)
    fbms_tree(tmp_path, values=COLOURS)
    write(tmp_path / TRUTH / "cats01_0001_gt.ppm", image)
    (video,) = open_fbms(tmp_path, "test")
    assert (video.mask(0) == (labels(0) > 0)).all()
    write(tmp_path / TRUTH / "cats01_0001_gt.ppm", np.full_like(image, 7))
    with pytest.raises(ValueError, match=r"0001_gt\.ppm: none of its values, e\.g\. 460551, is"):
        video.mask(0)


@pytest.mark.parametrize("values", [(MAGENTA, WHITE, CYAN), (WHITE, WHITE)])
def test_definitions_whose_background_is_not_white_are_refused(tmp_path, values):
    with pytest.raises(ValueError, match=r"Def\.dat: expected region 0 .* white, found the values"):
        open_fbms(fbms_tree(tmp_path, values=values), "test")


def test_definitions_whose_background_is_not_the_darkest_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"region 0 .* darker than all others.*\[255, 0, 100\]"):
        open_fbms(grey_tree(tmp_path, greys=(255, 0, 100)), "test")


def test_broken_definitions_are_named(tmp_path):
    fbms_tree(tmp_path, values=COLOURS)
    path = tmp_path / TRUTH / "cats01Def.dat"
    path.write_text("Total number of regions:\n3\nScale of region 0:\n1\n")
    with pytest.raises(ValueError, match=r"cats01Def\.dat: .*'Scale of region'.*3 regions"):
        open_fbms(tmp_path, "test")


def test_images_without_background_are_refused_where_nothing_defines_it(tmp_path):
    write(tmp_path / "a.ppm", np.full((4, 4, 3), 9, np.uint8))
    with pytest.raises(ValueError, match=r"a\.ppm: expected white background, found none"):
        read_regions(tmp_path / "a.ppm")
    assert cv2.imwrite(str(tmp_path / "b.pgm"), np.full((4, 4), 9, np.uint8))
    with pytest.raises(ValueError, match=r"b\.pgm: expected black background, found none"):
        read_regions(tmp_path / "b.pgm")


def test_png_ground_truth_is_read_unless_255_may_be_void(tmp_path):
    root = fbms_tree(tmp_path, annotated=())
    (root / TRUTH).mkdir()
    white = np.where(labels(0) > 0, 255, 0).astype(np.uint8)
    assert cv2.imwrite(str(root / TRUTH / "002_gt.png"), white)
    (video,) = open_fbms(root, "test")
    assert np.flatnonzero(video.annotated).tolist() == [1]
    assert (video.mask(1) == (labels(0) > 0)).all()
    ids = labels(0)
    ids[0] = 255
    write_mask(root / TRUTH / "002_gt.png", ids)
    with pytest.raises(ValueError, match=r"002_gt\.png: .*255 beside others"):
        video.mask(1)


def test_missing_parts_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"Testset: no such folder; FBMS-59 has"):
        open_fbms(tmp_path, "test")
    root = fbms_tree(tmp_path, values=COLOURS)
    (root / "Testset/cats01/cats01_0004.jpg").rename(root / "kept.jpg")
    with pytest.raises(FileNotFoundError, match=r"1 ground truth .*: cats01_0004_gt\.ppm"):
        open_fbms(root, "test")
    (root / "kept.jpg").rename(root / "Testset/cats01/cats01_0004.jpg")
    (root / TRUTH / "cats01_0004_gt.ppm").unlink()
    with pytest.raises(FileNotFoundError, match=r"Def\.dat lists .*: cats01_0004_gt\.ppm"):
        open_fbms(root, "test")
    for file in (root / TRUTH).iterdir():
        file.unlink()
    with pytest.raises(FileNotFoundError, match=r"GroundTruth: expected ground truth in \.ppm"):
        open_fbms(root, "test")
    (root / TRUTH).rmdir()
    with pytest.raises(FileNotFoundError, match=r"GroundTruth: no such folder; a sequence of"):
        open_fbms(root, "test")


def test_ground_truth_that_is_no_image_is_named(tmp_path):
    (video,) = open_fbms(fbms_tree(tmp_path), "test")
    (tmp_path / TRUTH / "cats01_0001_gt.ppm").write_bytes(b"P6 9")
    with pytest.raises(ValueError, match=r"0001_gt\.ppm: cannot be read as an image"):
        video.mask(0)


@pytest.mark.parametrize("values", [None, COLOURS])
def test_videos_pickle(tmp_path, values):
    (video,) = open_fbms(fbms_tree(tmp_path, values=values), "test")
    assert same(video, pickle.loads(pickle.dumps(video)))
