"""Matching of boxes with objects, equal to both releases, and what is drawn of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.fixtures import load_npz
from vos_jax.ops.boxes import LEGACY, MODERN, iou
from vos_jax.ops.detection_targets import IGNORED, NEGATIVE, match, sample

STAGES = {"rpn": (0.7, 0.3), "rcnn": (0.5, 0.5)}
ALL = (np.ones(60, bool), np.ones(4, bool))


@pytest.mark.parametrize("stage", STAGES)
def test_matches_equal_mmdets(stage):
    golden = load_npz("detection_ops", "targets")
    overlaps = iou(golden["asg_boxes"], golden["asg_gt"], LEGACY)
    largest = golden[f"legacy_assign_{stage}_max_iou"]
    np.testing.assert_allclose(overlaps.max(axis=1), largest, atol=1e-6)
    low_quality = {"rpn": 0.3, "rcnn": 0.5}[stage]
    found = match(overlaps, *ALL, *STAGES[stage], low_quality, takes_over=True)
    expected = golden[f"legacy_assign_{stage}_gt_inds"]  # -1 ignored, 0 negative, from 1 objects
    np.testing.assert_array_equal(found, np.array([IGNORED, NEGATIVE, 0, 1, 2, 3])[expected + 1])


@pytest.mark.parametrize("stage", STAGES)
def test_matches_equal_torchvisions(stage):
    golden = load_npz("detection_ops", "targets")
    overlaps = iou(golden["asg_boxes"], golden["asg_gt"], MODERN)
    found = match(overlaps, *ALL, *STAGES[stage], 0.0 if stage == "rpn" else None)
    np.testing.assert_array_equal(found, golden[f"tv_match_{stage}"])


def test_a_best_box_is_its_own_or_that_of_the_object_it_is_best_for():
    overlaps = jnp.float32([[0.6, 0.5], [0.2, 0.1], [0.05, 0.5], [0.0, 0.0]])
    both = jnp.ones(4, bool), jnp.ones(2, bool)
    assert match(overlaps, *both, 0.7, 0.3, 0.3).tolist() == [0, NEGATIVE, 1, NEGATIVE]
    taken = match(overlaps, *both, 0.7, 0.3, 0.3, takes_over=True)
    assert taken.tolist() == [1, NEGATIVE, 1, NEGATIVE]
    assert match(overlaps, *both, 0.7, 0.3).tolist() == [IGNORED, NEGATIVE, IGNORED, NEGATIVE]


def test_padding_changes_nothing_and_is_drawn_by_nobody():
    rng = np.random.default_rng(0)
    overlaps = np.float32(rng.random((40, 3)))
    padded = np.pad(overlaps, ((0, 5), (0, 2)), constant_values=0.9)
    candidates, objects = np.arange(45) < 40, np.arange(5) < 3
    found = match(padded, candidates, objects, 0.8, 0.3, 0.0)
    np.testing.assert_array_equal(
        found[:40], match(overlaps, *map(np.ones, (40, 3), (bool,) * 2), 0.8, 0.3, 0.0)
    )
    assert (found[40:] == IGNORED).all()
    index, drawn = sample(jax.random.key(0), found, 45, 0.5)
    assert (index[drawn] < 40).all()
    nothing = match(overlaps, np.ones(40, bool), np.zeros(3, bool), 0.8, 0.3, 0.0)
    assert (nothing == NEGATIVE).all()


@pytest.mark.parametrize(
    "positives, negatives", [(0, 30), (3, 30), (30, 30), (30, 2), (5, 0), (0, 0)]
)
def test_a_draw_has_its_share_of_positives_and_is_filled_with_negatives(positives, negatives):
    matched = np.full(80, IGNORED)
    places = np.random.default_rng(0).permutation(80)
    matched[places[:positives]] = 1
    matched[places[positives : positives + negatives]] = NEGATIVE
    index, drawn = map(np.asarray, sample(jax.random.key(1), jnp.asarray(matched), 16, 0.25))
    kinds = matched[index[drawn]]
    expected = min(positives, 4)
    assert kinds.tolist() == [1] * expected + [NEGATIVE] * min(negatives, 16 - expected)
    assert len(set(index[drawn])) == drawn.sum() and index.shape == (16,)


def test_every_box_is_drawn_equally_often():
    matched = jnp.where(jnp.arange(20) < 5, 0, NEGATIVE)
    keys = jax.random.split(jax.random.key(2), 2000)
    index, drawn = jax.jit(jax.vmap(lambda key: sample(key, matched, 8, 0.25)))(keys)
    assert drawn.all()
    shares = np.bincount(np.asarray(index).ravel(), minlength=20) / 2000
    np.testing.assert_allclose(shares, [2 / 5] * 5 + [6 / 15] * 15, atol=0.06)


def test_fewer_boxes_than_are_wanted_leave_places_empty():
    index, drawn = sample(jax.random.key(0), jnp.array([0, NEGATIVE, IGNORED]), 8, 0.5)
    assert index[:2].tolist() == [0, 1] and drawn.tolist() == [True] * 2 + [False] * 6
