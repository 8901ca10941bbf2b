"""Instances of a video: the lazy form and the one in memory say the same."""

import pickle

import numpy as np
import pytest

from vos_jax.data.instances import Instances, InstanceVideo, require_truth
from vos_jax.data.rle import encode


def masks_of(t):
    masks = np.zeros((2, 6, 8), bool)
    masks[0, 1:4, t : t + 3] = True
    masks[1, 2:6, 2:5] = True  # lies over the first
    return masks


def load_frame(t):
    return np.full((6, 8, 3), 10 * t, np.uint8)


def load_rles(t):
    return encode(masks_of(t))


def describe(boxes=None, size=(6, 8)):
    return Instances(
        ids=np.array([4, 9], np.int32),
        classes=np.array([2, 1], np.int32),
        crowd=np.array([False, True]),
        valid=np.array([[True, True], [True, False], [True, True]]),
        categories=["cat", "dog"],
        original_size=size,
        boxes=boxes,
    )


def video(describe=describe, load_frame=load_frame, **facts):
    names = ["a", "b", "c"]
    return InstanceVideo("v", "set", names, load_frame, load_rles, describe, **facts)


def test_a_clip_holds_what_the_video_reads():
    lazy = video()
    clip = lazy.clip([2, 1])
    assert clip.frames.shape == (2, 6, 8, 3) and clip.frames[0, 0, 0, 0] == 20
    assert clip.masks.dtype == bool and (clip.masks[0] == masks_of(2)).all()
    assert (clip.masks[1, 0] == masks_of(1)[0]).all() and not clip.masks[1, 1].any()
    assert clip.boxes.dtype == np.float32
    assert clip.boxes.tolist() == [[[2, 1, 5, 4], [2, 2, 5, 6]], [[1, 1, 4, 4], [0, 0, 0, 0]]]
    assert clip.valid.tolist() == [[True, True], [True, False]]
    assert clip.frame_names == ["c", "b"] and clip.source_index.tolist() == [2, 1]
    assert clip.classes.tolist() == [2, 1] and clip.ids.tolist() == [4, 9]
    assert clip.crowd.tolist() == [False, True] and clip.original_size == (6, 8)
    assert len(lazy.clip().frames) == 3
    assert pickle.loads(pickle.dumps(lazy)).name == "v"  # worker processes are handed videos


def test_boxes_of_the_annotation_win_over_those_around_the_masks():
    given = np.arange(24, dtype=np.float32).reshape(3, 2, 4)
    lazy = video(describe=lambda: describe(given))
    assert (lazy.boxes(0) == given[0]).all()
    assert (lazy.boxes(1) == [given[1, 0], [0, 0, 0, 0]]).all()


def test_numbers_of_the_file_are_kept_for_results():
    assert video().category_ids == [1, 2]
    assert video(category_ids=[18, 44], video_id=7).category_ids == [18, 44]


def test_sizes_that_differ_and_withheld_truth_are_refused():
    with pytest.raises(ValueError, match=r"set/v: frame a has masks of sizes \[\(6, 8\)\].*9, 8"):
        video(describe=lambda: describe(size=(9, 8))).masks(0)
    large = video(load_frame=lambda t: np.zeros((12, 16, 3), np.uint8))
    with pytest.raises(ValueError, match="frame a is 12x16.*its annotation is for 6x8"):
        large.clip()
    with pytest.raises(ValueError, match=r"frame index 3 is outside 0\.\.2"):
        video().frame(3)
    with pytest.raises(ValueError, match="set: the annotations of 1 videos are withheld.*is v;"):
        require_truth([video(), video(annotated=False)])
