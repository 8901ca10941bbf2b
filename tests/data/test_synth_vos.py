"""SynthVOS: objects of image and mask pairs over other images."""

import pickle

import cv2
import numpy as np
import pytest

from vos_jax.data.sources import open_sources
from vos_jax.data.synth_vos import open_synth_vos


@pytest.fixture
def pairs(tmp_path):
    """Four images of 40x60 with a disc each, and two backgrounds of 50x80."""
    rng = np.random.default_rng(0)
    for folder in ("images", "masks", "behind"):
        (tmp_path / folder).mkdir()
    for i in range(4):
        mask = np.zeros((40, 60), np.uint8)
        cv2.circle(mask, (20 + 5 * i, 20), 8 + i, 255, -1)
        image = np.where(mask[..., None] > 0, 200 + 10 * i, 60).astype(np.uint8).repeat(3, axis=2)
        cv2.imwrite(str(tmp_path / f"images/{i}.png"), image)
        cv2.imwrite(str(tmp_path / f"masks/{i}.png"), mask)
    for i in range(2):
        image = rng.integers(0, 30, (50, 80, 3)).astype(np.uint8)
        cv2.imwrite(str(tmp_path / f"behind/{i}.png"), image)
    return tmp_path


def test_frames_are_a_function_of_video_and_index_also_in_another_process(pairs):
    videos = open_synth_vos(pairs, backgrounds="behind", videos=6, frames=5)
    again = pickle.loads(pickle.dumps(open_synth_vos(pairs, backgrounds="behind", videos=6)))
    assert len(videos) == 6 and len(videos[0]) == 5
    for video, other in zip(videos, again, strict=True):
        for t in (3, 0, 3):
            np.testing.assert_array_equal(video.frame(t), other.frame(t))
            np.testing.assert_array_equal(video.mask(t), other.mask(t))


def test_masks_are_where_objects_of_the_pairs_lie_on_a_background(pairs):
    counts = set()
    for video in open_synth_vos(pairs, backgrounds="behind", videos=20):
        frame, mask = video.frame(2), video.mask(2)
        assert frame.shape == (50, 80, 3) and mask.shape == (50, 80)
        assert (frame[mask == 0] < 30).all()
        # but for the outline, which is blended, the disc and nothing of what was around it
        for label in video.ids:
            core = cv2.erode(
                (mask == label).astype(np.uint8),
                np.ones((5, 5), np.uint8),
                borderType=cv2.BORDER_CONSTANT,
                borderValue=0,
            )
            assert (frame[core > 0] >= 190).all()
        counts.add(len(video.ids))
    assert counts >= {1, 2, 3, 4}  # of four pairs


def test_objects_move(pairs):
    moved = [(video.mask(0) != video.mask(8)).any() for video in open_synth_vos(pairs, videos=10)]
    assert all(moved)


def test_the_images_of_the_pairs_are_the_backgrounds_unless_others_are_named(pairs):
    video = open_synth_vos(pairs)[0]
    assert video.original_size == (40, 60) and len(open_synth_vos(pairs)) == 4
    source = {"kind": "synth_vos", "dir": str(pairs), "backgrounds": "behind"}
    (opened,) = open_sources({"train": {"synth": source}}, "train")
    assert opened.videos[0].original_size == (50, 80)


def test_what_is_not_there_is_named(pairs):
    with pytest.raises(FileNotFoundError, match="named by the option backgrounds"):
        open_synth_vos(pairs, backgrounds="nowhere")
    with pytest.raises(ValueError, match="frames from 1, found 0 and 0"):
        open_synth_vos(pairs, frames=0)
