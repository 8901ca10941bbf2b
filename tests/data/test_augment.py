import cv2
import numpy as np
import pytest

from vos_jax.data.augment import Balance, augment, groups_of, random_crop, stretched_contrast
from vos_jax.data.objects import nearest_index
from vos_jax.data.sampling import RejectedClip, reference_and_run
from vos_jax.data.synthetic import synthetic_videos
from vos_jax.data.warp import Warp


def ramp(h, w):
    """A picture whose first two channels are the position, exact under linear resizing."""
    y, x = np.mgrid[:h, :w]
    return np.stack([y, x, 0 * x], -1).astype(np.uint8)


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


def resized(x, size):
    """The whole of a picture resized, rows before columns, in float32."""
    for axis, (n, m) in enumerate(zip(x.shape, size, strict=False)):
        position = np.arange(m, dtype=np.float32) * (np.float32(n - 1) / np.float32(m - 1))
        near = position.astype(int)
        weight = np.expand_dims(position - near.astype(np.float32), (1 - axis, 2))
        low = np.take(x, near, axis).astype(np.float32)
        high = np.take(x, np.minimum(near + 1, n - 1), axis).astype(np.float32)
        x = low + weight * (high - low)
    return x


@pytest.mark.parametrize("crop", [(24, 32), (64, 64)], ids=["inside", "padded"])
def test_what_is_cut_is_to_the_bit_a_part_of_the_whole_resized_padded_and_mirrored(crop):
    size = (41, 50)
    image = np.random.default_rng(0).integers(0, 256, (1, *size, 3), np.uint8)
    mask = np.random.default_rng(1).integers(0, 9, (1, *size), np.uint8)
    settings = dict(scale=(0.9, 1.3), flip=0.5)
    seen = set()
    for seed in range(8):
        rng = np.random.default_rng(seed)
        out, labels = augment(image, mask, rng, crop=crop, groups=((0,),), **settings)
        where = random_crop(np.random.default_rng(seed), size, crop, **settings)
        whole = np.full((128, 160, 3), 127.5, np.float32)
        whole[: where.size[0], : where.size[1]] = resized(image[0], where.size)
        ids = np.full(whole.shape[:2], 255, np.uint8)
        nearest = np.ix_(*(nearest_index(n, m) for n, m in zip(size, where.size, strict=True)))
        ids[: where.size[0], : where.size[1]] = mask[0][nearest]
        place = np.s_[where.top : where.top + crop[0], where.left : where.left + crop[1]]
        step = -1 if where.flip else 1
        np.testing.assert_array_equal(out[0], whole[place][:, ::step])
        np.testing.assert_array_equal(labels[0], ids[place][:, ::step])
        seen.add(where.flip)
    assert seen == {True, False}


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


@pytest.mark.parametrize(
    ("frames", "expected"),
    [
        (1, ((0,),)),
        (2, ((0,), (1,))),
        (3, ((0,), (1, 2))),
        (5, ((0,), (1, 2, 3, 4))),
    ],
)
def test_groups_follow_the_length_of_the_clip(frames, expected):
    assert groups_of([[0], [1, 2]], frames) == expected
    assert groups_of(((2, 0), (1,)), 5)[0] == (2, 0, 3, 4)  # wherever the last frame is named


def test_a_shared_warp_changes_the_frames_of_a_group_alike_and_others_each_for_itself():
    frames = np.stack([ramp(40, 60)] * 4)
    masks = (frames[..., 0] > 20).astype(np.uint8)
    for shared, alike in ((True, [True, True, False]), (False, [False] * 3)):
        warp = Warp(rotate=20, shear=5, zoom=(0.8, 1.2), shift=0.1, elastic=2, shared=shared)
        assert warp.changes and not Warp(shared=shared).changes
        rng = np.random.default_rng(0)
        options = dict(crop=(32, 40), scale=(1.0, 1.0), flip=0.0, groups=((0, 1, 2), (3,)))
        found, labels = augment(frames, masks, rng, warp=warp, **options)
        assert [np.array_equal(found[0], found[t]) for t in (1, 2, 3)] == alike
        assert [np.array_equal(labels[0], labels[t]) for t in (1, 2, 3)] == alike


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


def test_a_stretched_frame_fills_the_crop_and_its_scale_is_the_crops():
    frames = np.stack([ramp(20, 30)])
    masks = (frames[..., 1] > 14).astype(np.uint8)
    settings = dict(crop=(40, 40), flip=0.0, groups=((0,),), fit="stretch", short_side=7)

    def stretched(scale):
        return augment(frames, masks, np.random.default_rng(0), scale=scale, **settings)

    out, labels = stretched((1.0, 1.0))
    np.testing.assert_allclose(out[0, :, 0, 0], np.linspace(0, 19, 40), atol=1e-4)
    np.testing.assert_allclose(out[0, 0, :, 1], np.linspace(0, 29, 40), atol=1e-4)
    np.testing.assert_array_equal(labels[0, 0], np.arange(40) >= 20)
    larger, _ = stretched((1.5, 1.5))
    assert np.ptp(larger[0, :, 0, 0]) < 0.7 * 19  # a crop of 40 out of 60
    smaller, labels = stretched((0.5, 0.5))
    assert (labels[0, 20:] == 255).all() and (labels[0, :20, :20] < 2).all()


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


def test_contrast_is_stretched_in_each_frame_alone():
    rng = np.random.default_rng(0)
    frames = rng.integers(60, 180, (2, 20, 30, 3)).astype(np.uint8)
    frames[1] //= 2
    still = dict(crop=(12, 16), scale=(1.0, 1.0), flip=0.0, groups=((0, 1),))
    masks = np.zeros((2, 20, 30), np.uint8)
    plain, _ = augment(frames, masks, np.random.default_rng(1), **still)
    found, _ = augment(frames, masks, np.random.default_rng(1), contrast=True, **still)
    for one, other in zip(found, plain, strict=True):
        assert one.min() == 0 and one.max() == pytest.approx(255)
        np.testing.assert_allclose(one, (other - other.min()) * 255 / np.ptp(other), atol=1e-3)
    np.testing.assert_array_equal(stretched_contrast(np.full((2, 2, 3), 7)), 7.0)
