from types import SimpleNamespace

import numpy as np

from vos_jax.data.clip import VOID
from vos_jax.metrics.floors import CopyMask, NearestColour, given_labels


def clip(frames, masks, ids, given):
    """The fields of a Clip that the floors look at."""
    return SimpleNamespace(
        frames=np.asarray(frames, np.uint8),
        masks=np.asarray(masks, np.uint8),
        ids=np.asarray(ids),
        given=np.asarray(given, bool),
    )


def random_clip(seed, late=True):
    rng = np.random.default_rng(seed)
    frames = rng.integers(0, 256, (4, 12, 15, 3))
    masks = rng.integers(0, 3, (4, 12, 15)) * 2  # labels 0, 2, 4
    given = np.zeros((4, 2), bool)
    given[0, 0] = True
    given[2 if late else 0, 1] = True
    return clip(frames, masks, [2, 4], given)


def over_clip(floor, clip):
    """The floor's label maps of a whole clip, [T, H, W]."""
    handed = zip(clip.masks, clip.given, strict=True)
    given = [given_labels(mask, clip.ids, chosen) for mask, chosen in handed]
    return np.stack([floor.step(*step) for step in zip(clip.frames, given, strict=True)])


def brute_force_nearest(clip, t):
    """Label per pixel of frame t from all distances; the lowest label of the nearest ones."""
    colours, labels = [], []
    for s in range(t + 1):
        mask = given_labels(clip.masks[s], clip.ids, clip.given[s])
        if mask is not None:
            use = np.ones(mask.shape, bool) if s == 0 else mask > 0
            colours.append(clip.frames[s][use].astype(int))
            labels.append(mask[use])
    colours, labels = np.concatenate(colours), np.concatenate(labels)
    squared = ((clip.frames[t][:, :, None].astype(int) - colours) ** 2).sum(-1)
    nearest = squared == squared.min(-1, keepdims=True)
    return np.where(nearest, labels, VOID).min(-1)


def test_rgb_floor_is_the_exact_nearest_neighbour_also_with_a_late_object():
    video = random_clip(0)
    found = over_clip(NearestColour(), video)
    for t in (1, 3):
        np.testing.assert_array_equal(found[t], brute_force_nearest(video, t))


def test_rgb_floor_gives_ties_to_the_lowest_label():
    grey = lambda *values: np.repeat(np.array(values)[None, :, None], 3, 2)  # noqa: E731
    video = clip(
        [grey(10, 20, 30), grey(15, 25, 10)], [[[3, 0, 1]], [[0, 0, 0]]], [1, 3], [[1, 1], [0, 0]]
    )
    assert over_clip(NearestColour(), video)[1].tolist() == [[0, 0, 3]]


def test_given_masks_appear_as_they_are_in_both_floors():
    video = random_clip(1)
    for maps in (over_clip(NearestColour(), video), over_clip(CopyMask(), video)):
        first = np.where(video.masks[0] == 2, 2, 0)
        np.testing.assert_array_equal(maps[0], first)
        np.testing.assert_array_equal(maps[2] == 4, video.masks[2] == 4)


def test_copied_objects_stay_and_later_ones_are_pasted_over_them():
    video = random_clip(2)
    maps = over_clip(CopyMask(), video)
    np.testing.assert_array_equal(maps[1], maps[0])
    kept = (video.masks[0] == 2) & (video.masks[2] != 4)
    np.testing.assert_array_equal(maps[3] == 2, kept)
    assert maps.dtype == np.uint8


def test_a_corrected_object_moves():
    frame = np.zeros((1, 3, 3), np.uint8)
    floor = CopyMask()
    floor.step(frame, np.array([[5, 5, 0]], np.uint8))
    assert floor.step(frame, np.array([[0, 5, 0]], np.uint8)).tolist() == [[0, 5, 0]]


def test_void_pixels_teach_no_colour():
    frame = np.array([[[10] * 3, [200] * 3, [90] * 3]], np.uint8)
    floor = NearestColour()
    floor.step(frame, np.array([[0, 1, VOID]], np.uint8))
    assert floor.step(np.full((1, 1, 3), 90, np.uint8)).tolist() == [[0]]


def test_before_any_given_mask_all_is_background():
    frame = np.ones((2, 3, 3), np.uint8)
    for floor in (CopyMask(), NearestColour()):
        assert not floor.step(frame).any()
    late = random_clip(3)
    late.given[0] = False
    assert not over_clip(CopyMask(), late)[:2].any()


def test_only_given_ids_are_handed_out():
    mask = np.array([[0, 2, 4, VOID]], np.uint8)
    assert given_labels(mask, np.array([2, 4]), [False, True]).tolist() == [[0, 0, 4, 0]]
    assert given_labels(mask, np.array([2, 4]), [False, False]) is None
