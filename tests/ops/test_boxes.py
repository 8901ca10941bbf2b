"""Overlap, coding and clipping of boxes, under torchvision's convention and mmdet 0.x's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.fixtures import load_npz
from vos_jax.ops.boxes import ALIGNED, LEGACY, MODERN, clip, decode, encode, iou

RELEASES = {"tv": MODERN, "legacy": LEGACY}
STAGES = {"rpn": (1, 1, 1, 1), "rcnn": (10, 10, 5, 5)}


def close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("release", RELEASES)
def test_coding_matches_the_releases(release, stage):
    golden, geometry = load_npz("detection_ops", "box_coder"), RELEASES[release]
    weights = STAGES[stage]
    found = encode(golden["proposals"], golden["gt"], weights, geometry)
    close(found, golden[f"{release}_encode_{stage}"])
    found = decode(golden["proposals"], golden["deltas"], weights, geometry)
    close(found, golden[f"{release}_decode_{stage}"])
    of_classes = golden["deltas_3cls"].reshape(-1, 3, 4)
    classes = decode(golden["proposals"][:, None], of_classes, weights, geometry)
    if release == "tv":
        return close(classes.reshape(-1, 12), golden[f"tv_decode_3cls_{stage}"])
    size = golden["max_shape_hw"]
    close(clip(found, size, geometry), golden[f"legacy_decode_clip_{stage}"])
    classes = clip(classes, size, geometry).reshape(-1, 12)
    return close(classes, golden[f"legacy_decode_3cls_clip_{stage}"])


def test_overlap_and_clipping_match_the_releases():
    golden = load_npz("detection_ops", "box_coder")
    close(iou(golden["proposals"], golden["gt"], MODERN), golden["iou"])
    close(iou(golden["proposals"], golden["gt"], LEGACY), golden["iou_legacy"])
    close(clip(golden["gt"], golden["max_shape_hw"], MODERN), golden["tv_clip"])


@pytest.mark.parametrize("geometry", [MODERN, ALIGNED, LEGACY])
def test_decoding_undoes_encoding(geometry):
    rng = np.random.default_rng(0)
    first, second = np.float32(rng.uniform(0, 50, (2, 3, 20, 4)))
    for boxes in (first, second):
        boxes[..., 2:] += boxes[..., :2] + 1
    deltas = encode(first, second, (10, 10, 5, 5), geometry)
    close(decode(first, deltas, (10, 10, 5, 5), geometry), second)


def test_a_pixel_is_one_wide_where_corners_belong_to_the_box():
    pixel = np.float32([[3, 4, 3, 4]])
    assert iou(pixel, pixel, LEGACY) == 1 and iou(pixel, pixel, MODERN) == 0
    assert iou(np.float32([[0, 0, 1, 0]]), pixel[:, :2].repeat(2, 1) * 0, LEGACY) == 0.5
    image = clip(np.float32([[-5, -5, 99, 99]]), (jnp.int32(20), jnp.int32(30)), LEGACY)
    assert image.tolist() == [[0, 0, 29, 19]]


@pytest.mark.parametrize("geometry", [MODERN, ALIGNED, LEGACY])
def test_slots_without_a_box_give_finite_values_and_gradients(geometry):
    boxes = jnp.zeros((2, 4)).at[1].set(jnp.array([5.0, 5.0, 2.0, 2.0]))  # nothing, and inverted

    def total(boxes):
        deltas = encode(boxes, boxes[::-1], (1, 1, 1, 1), geometry)
        return deltas.sum() + decode(boxes, deltas, (1, 1, 1, 1), geometry).sum()

    value, gradient = jax.jit(jax.value_and_grad(total))(boxes)
    assert np.isfinite(value) and np.isfinite(gradient).all()
    assert np.isfinite(iou(boxes, boxes, geometry)).all()
