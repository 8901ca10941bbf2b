import numpy as np
import pytest

from vos_jax.metrics.boundary import boundary_accuracy, boundary_map, boundary_radius
from vos_jax.metrics.frame import frame_scores
from vos_jax.metrics.region import region_similarity


def blocks(seed, shape=(200, 240), side=40):
    """A label map of square blocks with labels 0..3."""
    coarse = np.random.default_rng(seed).integers(0, 4, (shape[0] // side, shape[1] // side))
    return np.kron(coarse, np.ones((side, side))).astype(np.uint8)


def whole_frame_f(gt, pred, radius):
    """F by brute force: every pair of outline pixels of the uncropped frame."""
    a, b = np.argwhere(boundary_map(gt)), np.argwhere(boundary_map(pred))
    near = ((a[:, None] - b[None]) ** 2).sum(-1) <= radius**2
    recall, precision = near.any(1).mean(), near.any(0).mean()
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


@pytest.mark.parametrize("seed", range(4))
def test_cropping_to_objects_changes_nothing(seed):
    gt, pred = blocks(seed), np.roll(blocks(seed), (2, -3), (0, 1))
    assert boundary_radius(gt.shape) == 3
    j, f = frame_scores(gt, pred, [1, 2, 3])
    for k, label in enumerate([1, 2, 3]):
        union = (gt == label) | (pred == label)
        both = (gt == label) & (pred == label)
        assert j[k] == both.sum() / union.sum()
        assert f[k] == pytest.approx(whole_frame_f(gt == label, pred == label, 3), abs=1e-12)


def test_objects_at_the_image_border_score_like_the_single_mask_functions():
    gt, pred = np.zeros((30, 50), np.uint8), np.zeros((30, 50), np.uint8)
    gt[20:, 40:], pred[22:, 38:] = 7, 7
    gt[0, 0], pred[0, 1] = 9, 9
    j, f = frame_scores(gt, pred, [7, 9])
    for k, label in enumerate([7, 9]):
        assert j[k] == region_similarity(gt == label, pred == label)
        assert f[k] == boundary_accuracy(gt == label, pred == label)


def test_absent_objects_agree_and_missed_objects_score_zero():
    gt = np.zeros((20, 20), np.uint8)
    gt[5:9, 5:9] = 2
    j, f = frame_scores(gt, np.zeros_like(gt), [1, 2])
    assert j.tolist() == [1, 0]
    assert f.tolist() == [1, 0]


def test_void_in_the_truth_is_background_unless_a_void_map_is_given():
    gt, pred = np.zeros((20, 20), np.uint8), np.zeros((20, 20), np.uint8)
    gt[4:8, 4:12] = 1
    gt[4:8, 12:16] = 255
    pred[4:8, 4:16] = 1
    assert frame_scores(gt, pred, [1])[0][0] == 32 / 48
    assert frame_scores(gt, pred, [1], void=gt == 255)[0][0] == 1


def test_full_frames_have_no_outline():
    assert not boundary_map(np.ones((6, 7), bool)).any()


@pytest.mark.parametrize("shape, radius", [((480, 854), 8), ((1080, 1920), 18), ((300, 400), 4)])
def test_radius_is_a_fraction_of_the_diagonal(shape, radius):
    assert boundary_radius(shape) == radius


def test_size_mismatch_names_both_shapes():
    with pytest.raises(ValueError, match=r"\(4, 6\).*\(4, 5\).*size of the annotations"):
        frame_scores(np.zeros((4, 5), np.uint8), np.zeros((4, 6), np.uint8), [1])


def test_ids_of_background_and_void_are_refused():
    labels = np.zeros((4, 5), np.uint8)
    with pytest.raises(ValueError, match=r"1\.\.254, found \[0, 255\]"):
        frame_scores(labels, labels, [0, 1, 255])
