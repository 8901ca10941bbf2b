"""What the streaming segmenter takes and gives back; systems/test_every_system has its answers."""

import numpy as np
import pytest

from vos_jax.inference.streaming import VideoSegmenter


def test_the_first_mask_comes_back_as_given(tiny_feelvos, clip):
    model, variables = tiny_feelvos
    frames, masks = clip
    first = masks[0].copy()
    first[0] = 255
    np.testing.assert_array_equal(VideoSegmenter(model, variables).step(frames[0], first), first)


@pytest.mark.parametrize(
    ("frame", "masks", "message"),
    [
        ((40, 56, 3), None, "first frame needs masks"),
        ((40, 56, 3), np.zeros((40, 56), np.uint8), "holds no object"),
        (
            (40, 56, 3),
            np.ones((20, 28), np.uint8),
            r"frame's size \(40, 56\), found shape \(20, 28\)",
        ),
        ((40, 56, 3), np.full((40, 56), 0.5), "integer ids"),
        ((40, 56), np.ones((40, 56), np.uint8), r"expected a frame uint8 \[H, W, 3\]"),
    ],
)
def test_bad_input_is_refused_with_what_was_found(tiny_feelvos, frame, masks, message):
    model, variables = tiny_feelvos
    with pytest.raises(ValueError, match=message):
        VideoSegmenter(model, variables).step(np.zeros(frame, np.uint8), masks)


def test_a_frame_of_another_size_is_refused(tiny_feelvos, clip):
    model, variables = tiny_feelvos
    frames, masks = clip
    segmenter = VideoSegmenter(model, variables)
    segmenter.step(frames[0], masks[0])
    with pytest.raises(ValueError, match="40x56.*found 20x56"):
        segmenter.step(frames[1][:20])
