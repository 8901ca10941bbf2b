"""Mask targets: torchvision's soft ones, and OpenCV's integers."""

import cv2
import jax
import numpy as np
import pytest

from tests.fixtures import load_npz
from vos_jax.ops.boxes import LEGACY, MODERN
from vos_jax.ops.mask_targets import mask_targets

targets = jax.jit(mask_targets, static_argnames=("size", "geometry"))


@pytest.mark.parametrize("name, geometry", [("tv_target_soft", MODERN), ("legacy_target", LEGACY)])
def test_targets_match_the_releases(name, geometry):
    golden = load_npz("detection_ops", "targets")
    arrays = (golden["gt_masks"], golden["gt_index"], golden["boxes"])
    found = targets(*arrays, size=28, geometry=geometry)
    np.testing.assert_allclose(found, golden[name], atol=0 if geometry is LEGACY else 1e-5)


@pytest.mark.parametrize("size", [14, 28])
def test_resized_crops_equal_opencv_in_every_pixel(size):
    """Noise, which is hardest, of crops from one pixel to the whole image."""
    rng = np.random.default_rng(0)
    masks = (rng.random((3, 60, 90)) < 0.5).astype(np.uint8)
    corners = rng.uniform(0, (89, 59), (300, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(0, 90, (300, 2))], axis=1)
    boxes = np.float32(np.minimum(boxes, (89, 59, 89, 59)))
    boxes[0] = (0, 0, 89, 59)
    slots = rng.integers(0, 3, 300)
    found = targets(masks, slots, boxes, size=size, geometry=LEGACY)
    for slot, (x1, y1, x2, y2), ours in zip(slots, boxes.astype(int), found, strict=True):
        crop = masks[slot, y1 : y2 + 1, x1 : x2 + 1]
        np.testing.assert_array_equal(ours, cv2.resize(crop, (size, size)))


@pytest.mark.parametrize("geometry", [MODERN, LEGACY])
def test_targets_of_padding_are_finite_and_have_no_gradient(geometry):
    masks, boxes = np.zeros((1, 8, 9), bool), np.zeros((2, 4), np.float32)

    def total(boxes):
        return targets(masks, np.zeros(2, int), boxes, size=4, geometry=geometry).sum()

    value, gradient = jax.value_and_grad(total)(boxes)
    assert value == 0 and not gradient.any()
