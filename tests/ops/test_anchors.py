"""Anchors of torchvision, mmdet 0.x and mmdet 2."""

import numpy as np
import pytest

from tests.fixtures import load_npz
from vos_jax.ops.anchors import cell_anchors, grid_anchors
from vos_jax.ops.boxes import ALIGNED, LEGACY, MODERN

RATIOS, STRIDES = (0.5, 1, 2), (4, 8, 16, 32, 64)
CELLS = {
    "tv_cell_anchors": MODERN,
    "legacy_base_anchors": LEGACY,
    "mmdet2_base_anchors": ALIGNED,
}


@pytest.mark.parametrize("name", CELLS)
def test_the_anchors_of_a_cell_match_the_releases(name):
    found = [cell_anchors([8 * s], RATIOS, s, CELLS[name]) for s in STRIDES]
    np.testing.assert_array_equal(found, load_npz("detection_ops", "anchors")[name])


def test_several_sizes_come_ratio_by_ratio():
    expected = load_npz("detection_ops", "anchors")["legacy_base_anchors_2scales_stride16"]
    np.testing.assert_array_equal(cell_anchors([128, 256], RATIOS, 16, LEGACY), expected)


@pytest.mark.parametrize("release, geometry", [("tv", MODERN), ("legacy", LEGACY)])
def test_the_anchors_of_an_image_match_the_releases(release, geometry):
    """torchvision's steps are those of the canvas, which a last map of odd sides does not fill."""
    golden, found = load_npz("detection_ops", "anchors"), []
    for stride, grid in zip(STRIDES, golden["feat_hw"], strict=True):
        steps = golden["image_hw"] // grid if release == "tv" else (stride, stride)
        found.append(
            grid_anchors(cell_anchors([8 * stride], RATIOS, stride, geometry), grid, steps)
        )
    np.testing.assert_array_equal(np.concatenate(found), golden[f"{release}_anchors"])
