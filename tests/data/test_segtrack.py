import pickle

import cv2
import numpy as np
import pytest

from tests.data.trees import (
    SIZE,
    labels,
    same,
    segtrack_tree,
    segtrack_v1_tree,
    write_binary,
)
from vos_jax.data.segtrack import open_segtrack, read_layers
from vos_jax.data.sources import open_sources


def test_objects_are_given_at_frame_0_and_scored_to_the_last(tmp_path):
    bmx, frog = open_segtrack(segtrack_tree(tmp_path))
    assert (frog.name, frog.dataset, bmx.dataset) == ("frog", "segtrack_v2", "segtrack_v2")
    assert frog.ids.tolist() == [1] and bmx.ids.tolist() == [1, 2]
    assert bmx.given.tolist() == [[True, True]] + [[False, False]] * 3
    assert bmx.scored.tolist() == [[False, False]] + [[True, True]] * 3
    assert frog.annotated.all() and frog.original_size == SIZE
    assert (frog.mask(3) == labels(3, (1,))).all()


def test_where_objects_overlap_the_higher_number_wins(tmp_path):
    bmx, _ = open_segtrack(segtrack_tree(tmp_path))
    expected = labels(2)
    expected[:, 40] = 2
    assert (bmx.mask(2) == expected).all()


def test_grey_border_pixels_are_cut_at_128(tmp_path):
    assert cv2.imwrite(str(tmp_path / "m.png"), np.array([[0, 127, 128, 255]], np.uint8))
    assert read_layers(((3, tmp_path / "m.png"),)).tolist() == [[0, 0, 3, 3]]


def test_v1_masks_follow_the_frames_in_order_whatever_their_names(tmp_path):
    girl, penguin = open_segtrack(segtrack_v1_tree(tmp_path, length=12))
    assert girl.dataset == "segtrack_v1" and girl.frame_names[2] == "5117-8_70163"
    assert (girl.mask(10) == labels(10, (1,))).all() and girl.mask_files[10].endswith("10.bmp")
    assert (penguin.mask(1) == labels(1, (1,))).all()
    assert girl.scored[:, 0].tolist() == [False] + [True] * 11


def test_one_sequence_can_be_opened_alone(tmp_path):
    segtrack_tree(tmp_path)
    data = {"eval": {"s": {"kind": "segtrack", "dir": str(tmp_path), "split": "frog"}}}
    assert [video.name for video in open_sources(data, "eval")[0].videos] == ["frog"]
    with pytest.raises(ValueError, match=r"split 'all' or one of \['bmx', 'frog'\], got 'val'"):
        open_segtrack(tmp_path, "val")


def test_the_known_stray_mask_of_worm_is_left_out_and_any_other_refused(tmp_path):
    segtrack_tree(tmp_path)
    write_binary(tmp_path / "GroundTruth/frog/0000000000.png", labels(0) > 0)
    with pytest.raises(FileNotFoundError, match=r"frog: .*masks without frame: 0000000000;"):
        open_segtrack(tmp_path)
    for part in ("GroundTruth", "JPEGImages"):
        (tmp_path / part / "frog").rename(tmp_path / part / "worm")
    assert len(open_segtrack(tmp_path, "worm")[0]) == 4


def test_opening_decodes_no_image(tmp_path, monkeypatch):
    segtrack_v1_tree(segtrack_tree(tmp_path / "v2").parent / "v1")
    monkeypatch.setattr(cv2, "imdecode", None)
    assert len(open_segtrack(tmp_path / "v1")) == len(open_segtrack(tmp_path / "v2")) == 2


def test_missing_parts_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no sequence found; SegTrack v2 has"):
        open_segtrack(tmp_path)
    root = segtrack_tree(tmp_path / "v2")
    (root / "GroundTruth/bmx/2/bmx_00002.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"bmx/2: .*4 frames, found 3; .*: bmx_00002;"):
        open_segtrack(root)
    (root / "GroundTruth/bmx/2").rename(root / "GroundTruth/bmx/second")
    with pytest.raises(ValueError, match=r"bmx: expected one folder per object.*found second"):
        open_segtrack(root)
    (root / "GroundTruth").rename(root / "Truth")
    with pytest.raises(FileNotFoundError, match="GroundTruth: no such folder"):
        open_segtrack(root)


def test_v1_masks_that_do_not_match_the_frames_are_refused(tmp_path):
    root = segtrack_v1_tree(tmp_path)
    (root / "girl/ground-truth/1.bmp").rename(root / "girl/ground-truth/7.bmp")
    with pytest.raises(ValueError, match=r"ground-truth: .* 4 masks numbered 0 to 7 .* 70161 to"):
        open_segtrack(root)
    (root / "girl/ground-truth/7.bmp").unlink()
    with pytest.raises(ValueError, match=r"mask for each of the 4 frames.*found 3 masks"):
        open_segtrack(root)


def test_masks_of_one_frame_must_have_one_size(tmp_path):
    root = segtrack_tree(tmp_path)
    write_binary(root / "GroundTruth/bmx/2/bmx_00001.png", np.zeros((8, 9), bool))
    with pytest.raises(ValueError, match=r"2/bmx_00001\.png: this mask is 8x9 .* 1 is 48x64"):
        open_segtrack(root, "bmx")[0].mask(1)


def test_videos_pickle(tmp_path):
    segtrack_v1_tree(segtrack_tree(tmp_path / "v2").parent / "v1")
    for video in open_segtrack(tmp_path / "v1") + open_segtrack(tmp_path / "v2"):
        assert same(video, pickle.loads(pickle.dumps(video)))
