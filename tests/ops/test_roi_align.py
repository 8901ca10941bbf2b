"""RoIAlign: three conventions, two forms, levels, gradients."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.accelerator import lowered
from tests.fixtures import load_npz
from vos_jax.ops.boxes import ALIGNED, LEGACY, MODERN
from vos_jax.ops.platforms import BYTES
from vos_jax.ops.roi_align import _gathered, _multiplied, level_of, roi_align, roi_align_levels

CONVENTIONS = {"aligned1": ALIGNED, "aligned0": MODERN, "legacy": LEGACY}
CASES = [
    f"aligned{a}_sr{s}_{size}"
    for a in (0, 1)
    for s, size in ((2, "7x7"), (2, "14x14"), (2, "3x5"), (0, "7x7"), (0, "3x5"))
] + ["aligned0_sr1_7x7", "aligned1_sr1_3x5", "legacy_sr2_7x7", "legacy_sr2_14x14", "legacy_sr0_7x7"]


def of_images(golden, rois, **options):
    """RoIs (image, box) of both images, each from its own."""

    @jax.jit
    def run(features):
        maps = jnp.moveaxis(features, 1, -1)
        both = jax.vmap(lambda x: roi_align(x, rois[:, 1:], scale=0.25, **options))(maps)
        own = both[rois[:, 0].astype(int), np.arange(len(rois))]
        return jnp.moveaxis(own, -1, 1)

    return run(golden["feat"])


@pytest.mark.parametrize("case", CASES)
def test_features_match_the_releases(case):
    golden = load_npz("detection_ops", "roi_align")
    convention, sampling, p, q = re.fullmatch(r"(\w+)_sr(\d)_(\d+)x(\d+)", case).groups()
    rois = golden["legacy_rois" if convention == "legacy" else "rois"]
    options = dict(size=(int(p), int(q)), sampling=int(sampling))
    found = of_images(golden, rois, geometry=CONVENTIONS[convention], **options)
    np.testing.assert_allclose(found, golden[case], rtol=0, atol=1e-5)


def test_the_gradient_matches_the_release():
    golden = load_npz("detection_ops", "roi_align")

    def total(features):
        options = dict(size=7, sampling=2, geometry=ALIGNED)
        found = of_images({"feat": features}, golden["rois"], **options)
        return (found * golden["grad_weight"]).sum()

    expected = golden["grad_feat_aligned1_sr2_7x7"]
    found = jax.grad(total)(jnp.asarray(golden["feat"]))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def pyramid(rng):
    """Three maps, and boxes inside and outside of the image, some without area."""
    maps = tuple(jnp.float32(rng.normal(size=(h, w, 3))) for h, w in ((16, 24), (8, 12), (4, 6)))
    corners = rng.uniform(-20, 60, (30, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(0, 80, (30, 2))], axis=1)
    boxes[:3, 2:] = boxes[:3, :2]
    return maps, np.float32(boxes), rng.integers(0, 3, 30)


def test_each_level_by_itself_agrees():
    maps, boxes, levels = pyramid(np.random.default_rng(0))
    scales, geometry = (1 / 4, 1 / 8, 1 / 16), ALIGNED
    options = dict(size=(3, 5), sampling=2, geometry=geometry)
    found = jax.jit(partial(roi_align_levels, scales=scales, **options))(maps, boxes, levels)
    for level in range(3):
        own = jax.jit(partial(roi_align, scale=scales[level], **options))(maps[level], boxes)
        np.testing.assert_allclose(found[levels == level], own[levels == level], atol=1e-5)


@pytest.mark.parametrize("boxes_at_once", [30, 7])
def test_both_forms_agree_with_their_gradients(boxes_at_once, monkeypatch):
    widest = 4 * 3 * 24 * 3
    monkeypatch.setitem(BYTES, "tpu", boxes_at_once * widest)
    rng = np.random.default_rng(1)
    maps, _, levels = pyramid(rng)
    count = len(levels)
    start, length = rng.uniform(-9, 9, (count, 2)), rng.uniform(0, 20, (count, 2))
    weight = rng.normal(size=(count, 3, 5, 3))

    def value(form, maps):
        options = dict(bins=(3, 5), sampling=2)
        found = form(maps, levels, jnp.float32(start), jnp.float32(length), **options)
        return (found * weight).sum(), found

    forms = [
        jax.jit(jax.value_and_grad(partial(value, form), has_aux=True))(maps)
        for form in (_gathered, _multiplied)
    ]
    jax.tree.map(partial(np.testing.assert_allclose, atol=2e-4), *forms)


def test_memory_grows_with_the_bins_and_not_with_the_samples():
    maps = [jax.ShapeDtypeStruct((h, 2 * h, 64), jnp.float32) for h in (32, 16)]
    boxes = jax.ShapeDtypeStruct((100, 4), jnp.float32)

    def loss(maps, boxes, sampling):
        levels = level_of(boxes, 2, 56.0, MODERN)
        found = roi_align_levels(maps, boxes, levels, 7, (1 / 4, 1 / 8), sampling, MODERN)
        return jnp.square(found).sum()

    def temporary(sampling):
        step = jax.jit(jax.grad(partial(loss, sampling=sampling)))
        return step.lower(maps, boxes).compile().memory_analysis().temp_size_in_bytes

    all_samples = 100 * (7 * 4) ** 2 * 64 * 4
    assert temporary(4) < all_samples / 3


def test_a_tpu_reads_by_products_and_a_gpu_by_rows():
    x, boxes = jnp.zeros((8, 9, 2)), jnp.zeros((3, 4))
    program = jax.jit(partial(roi_align, size=7, scale=0.25, sampling=2, geometry=MODERN))
    text = lowered(program, x, boxes)
    assert "dot_general" in text["tpu"] and "dot_general" not in text["cuda"]


@pytest.mark.parametrize("release, geometry", [("tv", MODERN), ("legacy", LEGACY)])
def test_levels_match_the_releases(release, geometry):
    golden = load_npz("detection_ops", "fpn_levels")
    found = level_of(golden["boxes"], 4, 56.0, geometry)
    np.testing.assert_array_equal(found, golden[f"{release}_level_0based"])
    assert level_of(np.zeros((1, 4), np.float32), 4, 56.0, geometry) == 0
