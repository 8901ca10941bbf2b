"""Masks pasted into images, by three rules."""

from functools import partial

import jax
import numpy as np
import pytest

from tests.fixtures import load_npz
from vos_jax.ops.boxes import ALIGNED, LEGACY, MODERN, clip
from vos_jax.ops.paste import paste_masks

paste = jax.jit(paste_masks, static_argnums=(2, 3))


@pytest.mark.parametrize("name, geometry", [("tv_soft", MODERN), ("d2_soft", ALIGNED)])
def test_soft_masks_match_the_releases(name, geometry):
    golden = load_npz("detection_ops", "paste_mask")
    found = paste(golden["masks"], golden["boxes"], tuple(golden["hw"].tolist()), geometry)
    np.testing.assert_allclose(found, golden[name], atol=1e-5)


def test_binary_masks_match_mmdet_in_every_pixel():
    golden = load_npz("detection_ops", "paste_mask")
    size = tuple(golden["hw"].tolist())
    found = paste(golden["masks"], clip(golden["boxes"], size, LEGACY), size, LEGACY) > 0.5
    valid = golden["legacy_valid"]
    expected = golden["legacy_binary_boxes_clipped_to_image"][valid]
    np.testing.assert_array_equal(np.asarray(found)[valid], expected)


@pytest.mark.parametrize("geometry", [MODERN, ALIGNED, LEGACY])
def test_nothing_is_painted_outside_of_a_box_and_none_needs_an_area(geometry):
    boxes = np.float32([[4, 3, 12, 9], [0, 0, 0, 0], [-30, -30, -20, -20]])
    found = paste(np.ones((3, 28, 28), np.float32), boxes, (16, 20), geometry)
    assert np.isfinite(found).all() and not found[2].any()
    inside = np.zeros((16, 20), bool)
    inside[2:11, 3:14] = True  # with a cell's border
    assert not found[0][~inside].any() and (found[0][4:8, 5:11] == 1).all()
    assert (np.asarray(found[1]) > 0.5).sum() <= 1
    gradient = jax.grad(
        lambda m: partial(paste, boxes=boxes, size=(16, 20), geometry=geometry)(m).sum()
    )
    assert np.isfinite(gradient(np.ones((3, 28, 28), np.float32))).all()
