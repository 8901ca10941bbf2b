"""Videos that are read on request, and what is counted in label maps."""

from collections import Counter

import numpy as np
import pytest

from vos_jax.data.clip import Video, first_frame_objects, pixel_counts
from vos_jax.data.sampling import reference_and_sequence


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (16, 24), (37, 41), (2, 9, 13)])
def test_pixels_are_counted_as_by_bincount(shape):
    rng = np.random.default_rng(0)
    mixed = rng.integers(0, 256, shape, np.uint8)
    blocks = np.sort(rng.integers(0, 4, shape, np.uint8), axis=None).reshape(shape) * np.uint8(85)
    for labels in (mixed, blocks, blocks.T, mixed[..., ::2], mixed[1:]):
        np.testing.assert_array_equal(
            pixel_counts(labels), np.bincount(labels.ravel(), minlength=256)
        )


def counting_video(length):
    """A video of full masks, and how often each of its frames and masks was decoded."""
    decoded = Counter()

    def load(kind, make):
        def read(t):
            decoded[kind, t] += 1
            return make(t)

        return read

    def described():
        decoded["objects", 0] += 1
        return first_frame_objects(np.ones((20, 20), np.uint8), length)

    video = Video(
        name="v",
        dataset="d",
        frame_names=[f"{t:05d}" for t in range(length)],
        mask_files=[f"{t}.png" for t in range(length)],
        load_frame=load("frame", lambda t: np.full((20, 20, 3), t, np.uint8)),
        load_mask=load("mask", lambda t: np.full((20, 20), t + 1, np.uint8)),
        describe=described,
    )
    return video, decoded


def test_a_frame_that_comes_several_times_is_decoded_once():
    video, decoded = counting_video(4)
    clip = video.clip([2, 0, 2, 2])
    assert clip.frames[:, 0, 0, 0].tolist() == [2, 0, 2, 2]
    assert clip.masks[:, 0, 0].tolist() == [3, 1, 3, 3]
    assert clip.source_index.tolist() == [2, 0, 2, 2] and clip.source_index.dtype == np.int32
    assert set(decoded.values()) == {1}


def test_masks_that_a_chooser_looks_at_are_decoded_once_and_kept_for_one_clip_alone():
    video, decoded = counting_video(12)
    for turn in range(1, 4):
        kept = video.with_masks_kept()
        chosen = reference_and_sequence(kept, 5, np.random.default_rng(turn), max_gap=3)
        looked_at = {t for kind, t in decoded if kind == "mask"}
        clip = kept.clip(chosen)
        assert looked_at and max(decoded.values()) == 1
        decoded.clear()
        plain = video.clip(chosen)
        np.testing.assert_array_equal(clip.masks, plain.masks)
        assert {t for kind, t in decoded if kind == "mask"} == set(chosen)
        assert ("objects", 0) not in decoded  # described once
        decoded.clear()
