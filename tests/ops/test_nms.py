"""Suppression: equal to the releases and to the loop of its definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.fixtures import load_npz
from vos_jax.ops.boxes import LEGACY, MODERN, iou
from vos_jax.ops.nms import best_boxes, nms

KINDS = {"keep": MODERN, "keep_legacy": LEGACY, "keep_batched": MODERN}


def by_definition(overlaps, scores, valid, classes):
    kept = []
    for i in np.argsort(-scores, kind="stable"):
        same = [j for j in kept if classes[i] == classes[j]]
        if valid[i] and not overlaps[i, same].any():
            kept.append(i)
    return kept


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_kept_matches_the_releases(kind, threshold):
    golden = load_npz("detection_ops", "nms")
    boxes, scores, count = golden["boxes"], golden["scores"], len(golden["boxes"])
    classes = golden["classes"] if kind == "keep_batched" else None
    arguments = (boxes, scores, np.ones(count, bool), threshold)
    index, found = best_boxes(*arguments, count, KINDS[kind], classes)
    expected = golden[f"{kind}_{threshold}"]
    np.testing.assert_array_equal(index[found], expected)
    keep = nms(*arguments, KINDS[kind], classes)
    np.testing.assert_array_equal(np.flatnonzero(keep), np.sort(expected))


@pytest.mark.parametrize("name, geometry", [("eq_keep", MODERN), ("eq_keep_legacy", LEGACY)])
def test_an_overlap_that_equals_the_threshold_drops_nothing(name, geometry):
    golden = load_npz("detection_ops", "nms")
    keep = nms(golden["eq_boxes"], golden["eq_scores"], np.ones(4, bool), 0.5, geometry)
    np.testing.assert_array_equal(np.flatnonzero(keep), golden[name])


def test_the_best_over_classes_match_the_release():
    golden = load_npz("detection_ops", "nms")
    boxes = golden["mc_bboxes"].reshape(40, 5, 4)[:, 1:].reshape(-1, 4)  # without the background
    scores, classes = golden["mc_scores"][:, 1:].ravel(), np.tile(np.arange(4), 40)
    valid, most = scores > golden["mc_score_thr"], int(golden["mc_max"])
    index, found = best_boxes(boxes, scores, valid, golden["mc_iou_thr"], most, LEGACY, classes)
    assert found.all()
    np.testing.assert_array_equal(classes[index], golden["mc_out_labels"])
    expected = np.column_stack([boxes[index], scores[index]])
    np.testing.assert_array_equal(expected, golden["mc_out_bboxes"])


@pytest.mark.parametrize("most", [5, 60])
def test_videos_of_a_batch_equal_the_loop_of_the_definition(most):
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 40, (20, 50, 2))
    boxes = np.float32(np.concatenate([corners, corners + rng.uniform(0, 30, (20, 50, 2))], -1))
    boxes[:, 40:, 2:] = boxes[:, 40:, :2]  # without area
    scores = np.float32(np.round(rng.uniform(-3, 3, (20, 50)), 1))  # with ties
    classes, valid = rng.integers(0, 3, (20, 50)), rng.random((20, 50)) < 0.9

    @jax.jit
    def run(*arrays):
        return jax.vmap(lambda b, s, v, c: best_boxes(b, s, v, 0.4, most, MODERN, c))(*arrays)

    overlaps = np.asarray(iou(boxes, boxes, MODERN)) > 0.4
    indices, kept = map(np.asarray, run(boxes, scores, valid, classes))
    for *video, index, found in zip(overlaps, scores, valid, classes, indices, kept, strict=True):
        assert index[found].tolist() == by_definition(*video)[:most]
        assert not index[~found].any()


def test_nothing_is_kept_of_nothing_and_nothing_has_a_gradient():
    boxes, scores = jnp.ones((4, 4)), jnp.full(4, -jnp.inf)
    assert not nms(boxes, scores, jnp.zeros(4, bool), 0.5, MODERN).any()
    assert nms(boxes, scores, jnp.array([False, True, False, False]), 0.5, MODERN).sum() == 0

    def total(boxes):
        return boxes[best_boxes(boxes, boxes[:, 0], jnp.ones(4, bool), 0.5, 2, MODERN)[0]].sum()

    assert np.isfinite(jax.grad(total)(boxes)).all()
