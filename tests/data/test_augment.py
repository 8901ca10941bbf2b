import cv2
import numpy as np
import pytest

from vos_jax.data.augment import (
    Balance,
    augment,
    choose_objects,
    choose_visible_objects,
    nearest_index,
    random_crop,
)
from vos_jax.data.sampling import RejectedClip, reference_and_run
from vos_jax.data.synthetic import synthetic_videos
from vos_jax.ops.resize import nearest_indices


def ramp(h, w):
    """A picture whose first two channels are the position, exact under linear resizing."""
    y, x = np.mgrid[:h, :w]
    return np.stack([y, x, 0 * x], -1).astype(np.uint8)


def test_nearest_index_rounds_half_up_and_reaches_both_corners():
    assert nearest_index(465, 117).tolist() == list(range(0, 465, 4))
    assert nearest_index(3, 5).tolist() == [0, 1, 1, 2, 2]
    assert nearest_index(4, 9)[[0, -1]].tolist() == [0, 3]
    assert nearest_index(2, 83)[41] == 0  # just below a half


def test_nearest_index_is_that_of_the_network():
    for n in (2, 3, 7, 33, 240, 465):
        for m in (2, 5, 83, 117, 240):
            assert nearest_index(n, m).tolist() == nearest_indices(n, m).tolist(), (n, m)


def test_without_change_the_pictures_pass_through():
    frames = np.random.default_rng(0).integers(0, 256, (3, 20, 30, 3), np.uint8)
    masks = np.random.default_rng(1).integers(0, 3, (3, 20, 30), np.uint8)
    out, labels = augment(
        frames,
        masks,
        np.random.default_rng(2),
        crop=(20, 30),
        scale=(1, 1),
        flip=0,
        groups=((0, 1, 2),),
    )
    assert out.dtype == np.float32 and (out == frames).all()
    assert labels.dtype == np.uint8 and (labels == masks).all()


def test_scaled_crops_agree_with_the_whole_picture_resized():
    h, w, crop = 40, 50, (24, 32)
    for seed in range(5):
        out, _ = augment(
            ramp(h, w)[None],
            np.zeros((1, h, w), np.uint8),
            np.random.default_rng(seed),
            crop=crop,
            scale=(1.0, 1.3),
            flip=0.5,
            groups=((0,),),
        )
        where = random_crop(np.random.default_rng(seed), (h, w), crop, (1.0, 1.3), 0.5)
        y = (np.arange(crop[0]) + where.top) * (h - 1) / (where.size[0] - 1)
        x = (np.arange(crop[1]) + where.left) * (w - 1) / (where.size[1] - 1)
        x = x[::-1] if where.flip else x
        np.testing.assert_allclose(out[0, ..., 0], np.tile(y[:, None], (1, 32)), atol=1e-4)
        np.testing.assert_allclose(out[0, ..., 1], np.tile(x, (24, 1)), atol=1e-4)


def test_labels_move_with_the_pixels():
    frames = np.zeros((1, 40, 50, 3), np.uint8)
    frames[0, 10:30, 5:25] = 200
    masks = (frames[..., 0] > 0).astype(np.uint8)
    for seed in range(8):
        out, labels = augment(
            frames,
            masks,
            np.random.default_rng(seed),
            crop=(32, 32),
            scale=(1.0, 1.3),
            flip=0.5,
            groups=((0,),),
        )
        sure = (out[0, ..., 0] < 1) | (out[0, ..., 0] > 199)
        assert sure.mean() > 0.8
        assert (labels[0] == (out[0, ..., 0] > 100))[sure].all()


def test_small_pictures_are_padded_with_grey_and_void_also_when_flipped():
    for flip in (0, 1):
        out, labels = augment(
            np.zeros((1, 10, 12, 3), np.uint8),
            np.ones((1, 10, 12), np.uint8),
            np.random.default_rng(0),
            crop=(16, 16),
            scale=(1, 1),
            flip=flip,
            groups=((0,),),
        )
        inside = labels[0] == 1
        assert inside.sum() == 120 and inside[0, -1 if flip else 0]
        assert (labels[0][~inside] == 255).all()
        assert (out[0][~inside] == 127.5).all() and (out[0][inside] == 0).all()


def test_frames_of_a_group_share_parameters_and_groups_do_not():
    frames = np.repeat(ramp(60, 60)[None], 3, 0)
    differ = 0
    for seed in range(10):
        out, _ = augment(
            frames,
            frames[..., 0],
            np.random.default_rng(seed),
            crop=(32, 32),
            scale=(1, 1.3),
            flip=0.5,
            groups=((0,), (1, 2)),
        )
        assert (out[1] == out[2]).all()
        differ += (out[0] != out[1]).any()
    assert differ >= 9


def test_groups_must_cover_the_clip():
    with pytest.raises(ValueError, match=r"each frame 0\.\.1 of a clip once"):
        augment(
            np.zeros((2, 8, 8, 3), np.uint8),
            np.zeros((2, 8, 8), np.uint8),
            np.random.default_rng(0),
            crop=(8, 8),
            scale=(1, 1),
            flip=0,
            groups=((0,),),
        )


def blocks(*ids, size=64):
    """Background with one 16-pixel-wide column per id."""
    out = np.zeros((size, size), np.uint8)
    for place, key in enumerate(ids):
        out[8:56, 16 * place : 16 * place + 12] = key
    return out


def test_ids_are_renumbered_in_order_and_newcomers_become_background():
    masks = np.stack([blocks(9, 4), blocks(4, 9), blocks(7, 9)])
    masks[1, 0, 0] = 255
    out, count = choose_objects(masks, np.random.default_rng(0), 4)
    assert count == 2
    expected = np.stack([blocks(2, 1), blocks(1, 2), blocks(0, 2)])
    expected[1, 0, 0] = 255
    assert (out == expected).all()


def test_at_most_max_objects_are_kept_at_random():
    masks = np.stack([blocks(1, 2, 3)] * 2)
    kept = set()
    for seed in range(20):
        out, count = choose_objects(masks, np.random.default_rng(seed), 2)
        assert count == 2 and out.max() == 2
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
        choose_objects(reference[None], np.random.default_rng(0), 4)


def test_ten_pixels_on_the_coarse_grid_are_enough():
    reference = np.zeros((61, 61), np.uint8)  # the grid is every 4th pixel
    reference[::4, ::4].flat[:10] = 1
    reference[0:1, 0:37:4] = 1
    assert choose_objects(reference[None], np.random.default_rng(0), 4)[1] == 1
    reference[0, 0] = 0
    with pytest.raises(RejectedClip):
        choose_objects(reference[None], np.random.default_rng(0), 4)


def test_reference_is_anywhere_and_the_query_never_the_last_frame():
    (video,) = synthetic_videos("train", 1, num_frames=6)
    draws = [reference_and_run(video, 3, np.random.default_rng(s)) for s in range(200)]
    assert {r for r, _, _ in draws} == set(range(6))
    assert {p for _, p, _ in draws} == {0, 1, 2, 3}
    assert all(query == previous + 1 for _, previous, query in draws)


def test_pairs_are_neighbours_among_the_annotated_frames():
    (video,) = synthetic_videos("train", 1)
    video.annotated[:] = np.arange(12) % 5 == 0
    draws = [reference_and_run(video, 3, np.random.default_rng(s)) for s in range(30)]
    assert {(p, q) for _, p, q in draws} == {(0, 5)}
    video.annotated[10] = False
    with pytest.raises(RejectedClip, match="2 annotated frames"):
        reference_and_run(video, 3, np.random.default_rng(0))
    with pytest.raises(ValueError, match=r"clip\.frames is 1"):
        reference_and_run(video, 1, np.random.default_rng(0))


def test_short_side_sets_the_scale_at_which_crops_are_taken():
    frames = np.zeros((1, 96, 160, 3), np.uint8)
    frames[:, :, 80:] = 200
    masks = (frames[..., 0] > 0).astype(np.uint8)
    out, labels = augment(
        frames,
        masks,
        np.random.default_rng(0),
        crop=(48, 80),
        scale=(1.0, 1.0),
        flip=0.0,
        groups=((0,),),
        short_side=48,
    )
    assert labels.max() == 1  # nothing was padded: the whole frame fits at half size
    np.testing.assert_array_equal(labels[0, :, :40], 0)
    np.testing.assert_array_equal(labels[0, :, 41:], 1)
    assert out[0, :, :39].max() == 0 and out[0, :, 41:].min() == 200


def test_the_gap_of_the_pair_is_drawn_up_to_max_gap():
    video = synthetic_videos("train", 1)[0]
    rng = np.random.default_rng(0)
    gaps = {b - a for _, a, b in (reference_and_run(video, 3, rng, max_gap=3) for _ in range(60))}
    assert gaps == {1, 2, 3}
    ends = {b for _, _, b in (reference_and_run(video, 3, rng, max_gap=99) for _ in range(300))}
    assert max(ends) == len(video) - 2


def test_a_longer_run_is_equally_spaced_and_leaves_the_last_frame_out():
    video = synthetic_videos("train", 1, num_frames=8)[0]
    rng = np.random.default_rng(0)
    runs = {tuple(reference_and_run(video, 4, rng, max_gap=99)[1:]) for _ in range(300)}
    assert {(b - a, c - b) for a, b, c in runs} == {(gap, gap) for gap in (1, 2, 3)}
    assert {a for a, _, _ in runs} == set(range(5)) and max(c for _, _, c in runs) == 6
    assert reference_and_run(video, 8, rng, max_gap=9)[1:] == list(range(7))


# ---- CFBI: cubic interpolation and the balanced crop ----


def test_cubic_crops_are_those_of_the_whole_picture_resized_by_opencv():
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (2, 40, 50, 3), np.uint8)
    masks = rng.integers(0, 4, (2, 40, 50), np.uint8)
    for seed in range(4):
        out, labels = augment(
            frames,
            masks,
            np.random.default_rng(seed),
            crop=(33, 33),
            scale=(1.0, 1.3),
            flip=0.0,
            groups=((0, 1),),
            interpolation="cubic",
        )
        where = random_crop(np.random.default_rng(seed), (40, 50), (33, 33), (1.0, 1.3), 0.0)
        place = np.s_[where.top : where.top + 33, where.left : where.left + 33]
        for t in range(2):
            size = where.size[::-1]
            whole = cv2.resize(frames[t].astype(np.float32), size, interpolation=cv2.INTER_CUBIC)
            np.testing.assert_array_equal(out[t], whole[place])
            whole = cv2.resize(masks[t], size, interpolation=cv2.INTER_NEAREST)
            np.testing.assert_array_equal(labels[t], whole[place])
        assert out.min() < 0 and out.max() > 255  # not clipped


def corner_object(size=12):
    """A reference and a frame after it; the object, 144 pixels, lies in one corner of both."""
    masks = np.zeros((2, 96, 160), np.uint8)
    masks[:, :size, :size] = 7
    return np.repeat(np.stack([masks] * 3, -1), 1, 0), masks


@pytest.mark.parametrize("tries", [1, 5])
def test_the_balanced_crop_is_drawn_until_the_reference_shows_an_object(tries):
    frames, masks = corner_object()
    masks[:, 40:50, 70:80] = 3  # 100 pixels: not more, wherever the crop lies

    def shown(seed, **options):
        _, labels = augment(
            frames,
            masks,
            np.random.default_rng(seed),
            crop=(80, 80),
            scale=(1.0, 1.0),
            flip=0.0,
            groups=((0, 1),),
            **options,
        )
        np.testing.assert_array_equal(labels[0], labels[1])  # one window for all frames
        return (labels[0] == 7).sum() > 100

    once = np.mean([shown(seed) for seed in range(100)])
    balanced = np.mean([shown(seed, balance=Balance(tries=tries)) for seed in range(100)])
    assert 0 < once < 0.25
    assert balanced == once if tries == 1 else balanced > 2.5 * once


def test_visible_objects_are_kept_and_others_become_background_in_all_frames():
    masks = np.zeros((2, 40, 40), np.uint8)
    masks[:, :10, :10], masks[:, :10, 20:31], masks[:, 20:40, :] = 9, 5, 2
    masks[1, 15:18], masks[:, 12] = 6, 255
    out, count = choose_visible_objects(masks, np.random.default_rng(0), 5, pixels=100)
    assert count == 2  # 9 has just 100 pixels, 6 is not in the reference
    expected = np.zeros_like(masks)
    expected[masks == 2], expected[masks == 5], expected[masks == 255] = 1, 2, 255
    np.testing.assert_array_equal(out, expected)
    assert choose_visible_objects(masks, np.random.default_rng(0), 1, pixels=100)[1] == 1
    with pytest.raises(RejectedClip, match="no object of the cropped reference covers more than"):
        choose_visible_objects(masks, np.random.default_rng(0), 5, pixels=900)
