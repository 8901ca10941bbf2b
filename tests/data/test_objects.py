import numpy as np
import pytest

from vos_jax.data.objects import Choice, choose_objects, nearest_index
from vos_jax.data.sampling import RejectedClip
from vos_jax.ops.resize import nearest_indices

MATCHED, VISIBLE = Choice(), Choice("visible")


def test_nearest_index_rounds_half_up_and_reaches_both_corners():
    assert nearest_index(465, 117).tolist() == list(range(0, 465, 4))
    assert nearest_index(3, 5).tolist() == [0, 1, 1, 2, 2]
    assert nearest_index(4, 9)[[0, -1]].tolist() == [0, 3]
    assert nearest_index(2, 83)[41] == 0  # just below a half


def test_nearest_index_is_that_of_the_network():
    for n in (2, 3, 7, 33, 240, 465):
        for m in (2, 5, 83, 117, 240):
            assert nearest_index(n, m).tolist() == nearest_indices(n, m).tolist(), (n, m)


def blocks(*ids, size=64):
    """Background with one 16-pixel-wide column per id."""
    out = np.zeros((size, size), np.uint8)
    for place, key in enumerate(ids):
        out[8:56, 16 * place : 16 * place + 12] = key
    return out


def test_ids_are_renumbered_in_order_and_newcomers_become_background():
    masks = np.stack([blocks(9, 4), blocks(4, 9), blocks(7, 9)])
    masks[1, 0, 0] = 255
    out, ids = choose_objects(masks, np.random.default_rng(0), 4, MATCHED)
    assert ids.tolist() == [4, 9]
    expected = np.stack([blocks(2, 1), blocks(1, 2), blocks(0, 2)])
    expected[1, 0, 0] = 255
    assert (out == expected).all()


def test_at_most_max_objects_are_kept_at_random():
    masks = np.stack([blocks(1, 2, 3)] * 2)
    kept = set()
    for seed in range(20):
        out, ids = choose_objects(masks, np.random.default_rng(seed), 2, MATCHED)
        assert len(ids) == 2 and out.max() == 2
        kept.add(tuple(int(out[0, 20, 16 * place]) for place in range(3)))
    assert kept == {(1, 2, 0), (1, 0, 2), (0, 1, 2)}


@pytest.mark.parametrize(
    "reference, reason",
    [
        (np.zeros((64, 64), np.uint8), "both background and an object"),
        (np.full((64, 64), 3, np.uint8), "both background and an object"),
        (np.full((64, 64), 255, np.uint8), "both background and an object"),
        (np.pad(np.full((12, 9), 1, np.uint8), 26), "fewer than 10 pixels"),
    ],
)
def test_references_that_teach_nothing_are_rejected(reference, reason):
    with pytest.raises(RejectedClip, match=reason):
        choose_objects(reference[None], np.random.default_rng(0), 4, MATCHED)


def test_ten_pixels_on_the_coarse_grid_are_enough():
    reference = np.zeros((61, 61), np.uint8)  # the grid is every 4th pixel
    reference[::4, ::4].flat[:10] = 1
    reference[0:1, 0:37:4] = 1
    assert len(choose_objects(reference[None], np.random.default_rng(0), 4, MATCHED)[1]) == 1
    reference[0, 0] = 0
    with pytest.raises(RejectedClip):
        choose_objects(reference[None], np.random.default_rng(0), 4, MATCHED)


def test_visible_objects_are_kept_and_others_become_background_in_all_frames():
    masks = np.zeros((2, 40, 40), np.uint8)
    masks[:, :10, :10], masks[:, :10, 20:31], masks[:, 20:40, :] = 9, 5, 2
    masks[1, 15:18], masks[:, 12] = 6, 255
    out, ids = choose_objects(masks, np.random.default_rng(0), 5, VISIBLE)
    assert ids.tolist() == [2, 5]  # 9 has just 100 pixels, 6 is not in the reference
    expected = np.zeros_like(masks)
    expected[masks == 2], expected[masks == 5], expected[masks == 255] = 1, 2, 255
    np.testing.assert_array_equal(out, expected)
    assert len(choose_objects(masks, np.random.default_rng(0), 1, VISIBLE)[1]) == 1
    with pytest.raises(RejectedClip, match="no object of the cropped reference covers more than"):
        choose_objects(masks, np.random.default_rng(0), 5, Choice("visible", 900))


def test_of_too_many_objects_the_largest_are_kept():
    masks = np.zeros((2, 40, 40), np.uint8)
    masks[:, :10, :20], masks[:, 10:30], masks[:, 30:, :15] = 9, 4, 7
    masks[1, 10:30] = 7  # only the reference counts
    for seed in range(5):
        choice = Choice("largest", pixels=0)
        out, ids = choose_objects(masks, np.random.default_rng(seed), 2, choice)
        assert ids.tolist() == [4, 9]
        np.testing.assert_array_equal(out[0], np.where(masks[0] == 4, 1, (masks[0] == 9) * 2))
    _, ids = choose_objects(masks, np.random.default_rng(0), 4, Choice("largest", pixels=190))
    assert ids.tolist() == [4, 9]  # 7 has 150


@pytest.mark.parametrize("rule", ["matched", "visible", "largest"])
def test_merged_objects_are_one(rule):
    masks = np.stack([blocks(9, 4), blocks(4, 7)])
    masks[:, 0, 0] = 255
    choice = Choice(rule, merge=True)
    out, ids = choose_objects(masks, np.random.default_rng(0), 1, choice)
    assert len(ids) == 1
    np.testing.assert_array_equal(out, np.where(masks == 255, 255, masks > 0))
