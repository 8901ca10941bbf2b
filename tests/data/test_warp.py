import cv2
import numpy as np
import pytest

from tests.fixtures import load_npz
from vos_jax.data.augment import augment
from vos_jax.data.clip import VOID, Objects, Video
from vos_jax.data.pipeline import Examples
from vos_jax.data.sampling import RejectedClip, ordered, still
from vos_jax.data.sources import Source
from vos_jax.data.synthetic import synthetic_videos
from vos_jax.data.warp import Warp, cut_warped, paste, released_map

CROP = (48, 64)
PLAIN = {"crop": CROP, "scale": (1.0, 1.0), "flip": 0.0, "groups": ((0, 1, 2),)}


def clip_of(video, times):
    clip = video.clip(times)
    return clip.frames, clip.masks


@pytest.fixture(scope="module")
def video():
    return synthetic_videos("train", 1)[0]


def test_a_warp_that_changes_nothing_is_the_plain_crop(video):
    clip = clip_of(video, [0, 1, 2])
    plain = augment(*clip, np.random.default_rng(0), **PLAIN)
    warped = augment(*clip, np.random.default_rng(0), **PLAIN, warp=Warp())
    np.testing.assert_allclose(warped[0], plain[0], atol=1e-3)
    np.testing.assert_array_equal(warped[1], plain[1])


@pytest.mark.parametrize(
    "warp",
    [
        Warp(rotate=20),
        Warp(shear=15),
        Warp(zoom=(0.8, 1.2)),
        Warp(shift=0.1),
        Warp(elastic=4.0),
    ],
    ids=["rotate", "shear", "zoom", "shift", "elastic"],
)
def test_every_copy_of_a_still_moves_on_its_own_and_labels_follow_the_picture(video, warp):
    """The picture is the label map itself, so both must move alike."""
    labels = video.mask(0)
    picture = np.repeat((labels > 0)[..., None] * np.uint8(255), 3, axis=2)
    clip = np.stack([picture] * 3), np.stack([labels] * 3)
    whole = {**PLAIN, "crop": labels.shape}
    frames, masks = augment(*clip, np.random.default_rng(1), **whole, warp=warp)
    assert any((masks[0] != mask).any() for mask in masks[1:])
    inside, seen = (masks > 0) & (masks != VOID), masks != VOID
    assert np.mean((frames[..., 0] > 127)[seen] == inside[seen]) > 0.98


def test_the_middle_turns_and_zooms_in_place():
    matrix = Warp(rotate=30, shear=20, zoom=(0.5, 2.0)).matrix(np.random.default_rng(0), (21, 41))
    np.testing.assert_allclose(matrix @ (20, 10, 1), (20, 10))
    zoomed = Warp(zoom=(2.0, 2.0)).matrix(np.random.default_rng(0), (21, 41))
    np.testing.assert_allclose(zoomed @ (30, 10, 1), (25, 10))  # twice as large: half as far out


def test_a_warped_crop_is_the_picture_looked_up_at_every_place_mapped_on_its_own(video):
    crop, scaled, corner = CROP, (120, 150), (7, 11)
    warp = Warp(rotate=20, shear=10, zoom=(0.8, 1.2), shift=0.1, elastic=3.0, colour=0.3)
    image, labels = video.frame(0), video.mask(0)
    where = dict(crop=crop, scaled=scaled, corner=corner, fill=99.0)
    out, ids = cut_warped(image, labels, np.random.default_rng(5), warp, **where)

    rng = np.random.default_rng(5)
    matrix = warp.matrix(rng, crop)
    coarse = rng.uniform(-3, 3, (2, 4, 4))
    waves = [cv2.resize(c, crop[::-1], interpolation=cv2.INTER_CUBIC) for c in coarse]
    y, x = np.mgrid[: crop[0], : crop[1]]
    places = np.einsum("ij,jhw->ihw", matrix, np.stack([x, y, np.ones(crop)])) + waves
    maps = [
        ((places[k] + corner[1 - k] + 0.5) * labels.shape[1 - k] / scaled[1 - k] - 0.5)
        for k in range(2)
    ]
    maps = [m.astype(np.float32) for m in maps]
    border = dict(borderMode=cv2.BORDER_CONSTANT)
    plain = cv2.remap(image, *maps, cv2.INTER_LINEAR, borderValue=(99,) * 3, **border)
    seen = cv2.remap(labels, *maps, cv2.INTER_NEAREST, borderValue=VOID, **border)
    # places that differ in the last bit may fall on two sides of the 1/32 pixel of OpenCV
    assert (ids == seen).mean() > 0.999
    saturation, contrast, brightness = rng.uniform(0.7, 1.3, 3)
    grey = plain.mean(axis=2, keepdims=True)
    expected = grey + saturation * (plain - grey)
    expected = (expected.mean() + contrast * (expected - expected.mean())) * brightness
    near = np.abs(out - np.clip(expected, 0, 255)) < 2e-4
    assert near.mean() > 0.999 and out.dtype == np.float32


def test_the_released_map_and_its_pixels_equal_the_release(monkeypatch):
    golden = load_npz("rvos", "ops")
    rotate, down, right, shear, *zoom = golden["aug_params"]
    crop = golden["aug_img"].shape[1:]
    matrix = released_map(rotate, (down, right), shear, zoom, crop)
    centre = (np.array(crop[::-1]) - 1) / 2
    from_middle = np.column_stack([matrix[:, :2], matrix @ [*centre, 1] - centre])[::-1, [1, 0, 2]]
    np.testing.assert_allclose(from_middle, golden["aug_matrix"][:2], atol=1e-6)

    monkeypatch.setattr(Warp, "matrix", lambda *_: matrix)
    image, labels = golden["aug_img"].transpose(1, 2, 0), golden["aug_mask"][0]
    where = dict(crop=crop, scaled=crop, corner=(0, 0), fill=0.0)
    found = cut_warped(image, labels, np.random.default_rng(0), Warp(released=True), **where)
    np.testing.assert_array_equal(found[0].transpose(2, 0, 1), golden["aug_img_out"])
    np.testing.assert_array_equal(found[1], golden["aug_mask_out"][0])


def test_a_released_warp_draws_within_its_ranges_and_changes_picture_and_labels_alike(video):
    warp = Warp(rotate=10, shear=0.1, zoom=(0.7, 1.4), shift=0.1, released=True)
    matrices = [warp.matrix(np.random.default_rng(i), CROP) for i in range(200)]
    scales = np.array([np.linalg.norm(matrix[:, :2], axis=0) for matrix in matrices])
    assert 0.7 <= scales.min() < 0.75 and 1.35 < scales.max() <= 1.4
    labels = video.mask(0)
    picture = np.repeat((labels > 0)[..., None] * np.uint8(255), 3, axis=2)
    frames, masks = augment(
        picture[None],
        labels[None],
        np.random.default_rng(1),
        **{**PLAIN, "crop": labels.shape, "groups": ((0,),)},
        warp=warp,
    )
    np.testing.assert_array_equal(frames[..., 0] > 127, masks > 0)
    assert VOID not in masks and (masks[0] != labels).any()


def test_colours_change_and_stay_in_range(video):
    clip = clip_of(video, [0, 0, 0])
    frames, _ = augment(*clip, np.random.default_rng(0), **PLAIN, warp=Warp(colour=0.5))
    assert np.abs(frames[0] - frames[1]).mean() > 1
    assert frames.min() >= 0 and frames.max() <= 255


def test_pasted_objects_lie_on_top_with_ids_of_their_own():
    frame, other = np.zeros((4, 6, 3), np.float32), np.full((4, 6, 3), 9.0, np.float32)
    labels, layer = np.full((4, 6), 2, np.uint8), np.zeros((4, 6), np.uint8)
    layer[1:3, 2:4], layer[0, 0] = 1, VOID
    out, ids = paste(frame, labels, other, layer, first=3)
    assert (ids[1:3, 2:4] == 3).all() and (ids == 3).sum() == 4
    assert (out[1:3, 2:4] == 9).all() and (out == 9).sum() == 12
    assert ids[0, 0] == 2  # void of the pasted picture is not pasted


@pytest.mark.parametrize("first", [1, 7, 250, 254, 255])
def test_pasting_chooses_pixel_by_pixel_and_ids_that_do_not_fit_stay_out(first):
    rng = np.random.default_rng(first)
    frame, other = rng.uniform(0, 255, (2, 9, 11, 3)).astype(np.float32)
    labels, layer = rng.integers(0, 256, (2, 9, 11), np.uint8)
    layer[:5] %= 4
    before = frame.copy(), labels.copy()
    out, ids = paste(frame, labels, other, layer, first)
    for y, x in np.ndindex(labels.shape):
        new = int(layer[y, x]) + first - 1
        laid = 0 < layer[y, x] < VOID and new < VOID
        assert ids[y, x] == (new if laid else labels[y, x])
        assert (out[y, x] == (other if laid else frame)[y, x]).all()
    assert (frame == before[0]).all() and (labels == before[1]).all()


def test_ordered_frames_go_forward_by_at_most_the_gap():
    (video,) = synthetic_videos("train", 1, num_frames=9)
    rng = np.random.default_rng(0)
    draws = [ordered(video, 3, rng, max_gap=3) for _ in range(300)]
    gaps = np.diff(draws, axis=1)
    assert set(gaps.ravel()) == {1, 2, 3}
    assert {d[0] for d in draws} >= {0, 6} and max(d[-1] for d in draws) == 8
    widest = np.diff([ordered(video, 3, rng, max_gap=99) for _ in range(300)], axis=1)
    assert widest.max() == 4  # (9 - 1) // 2
    video.annotated[2:] = False
    with pytest.raises(RejectedClip, match="2 annotated frames, ordered needs 3"):
        ordered(video, 3, rng)
    with pytest.raises(ValueError, match=r"clip\.frames is 1"):
        ordered(video, 1, rng)


def test_a_still_is_one_annotated_frame_over_and_over():
    (video,) = synthetic_videos("train", 1, num_frames=6)
    video.annotated[:] = [False, True, False, False, True, False]
    draws = {tuple(still(video, 3, np.random.default_rng(s))) for s in range(30)}
    assert draws == {(1, 1, 1), (4, 4, 4)}
    video.annotated[:] = False
    with pytest.raises(RejectedClip, match="has 0 annotated frames"):
        still(video, 3, np.random.default_rng(0))


def examples(**options):
    options = {"frames": 3, "crop": CROP, "groups": ((0, 1, 2),), "max_objects": 4, **options}
    return Examples([Source("s", synthetic_videos("train", 4))], seed=0, **options)


def test_the_gap_limit_grows_with_the_examples():
    made = examples(choose="ordered", max_gap=6, growth={"start": 1, "step": 2, "every": 10})
    assert [made.gap_limit(i) for i in (0, 9, 10, 25, 30, 1000)] == [1, 1, 3, 5, 6, 6]
    assert all(np.all(np.diff(made.example(i)["source_index"]) == 1) for i in range(5))
    assert any(np.any(np.diff(made.example(i)["source_index"]) > 1) for i in range(30, 36))


def test_pasting_adds_objects_and_depends_on_the_example_alone():
    plain = examples(choose="still", warp=Warp(rotate=10.0))
    pasted = examples(choose="still", warp=Warp(rotate=10.0), paste=2)
    counts = [pasted.example(i)["valid"].sum() - plain.example(i)["valid"].sum() for i in range(8)]
    assert max(counts) >= 1
    again = pasted.example(3)
    for name, value in pasted.example(3).items():
        np.testing.assert_array_equal(value, again[name])
    with pytest.raises(ValueError, match="paste needs config.data.warp"):
        examples(paste=1)


def test_a_still_image_makes_a_clip_with_motion():
    labels = np.zeros((60, 80), np.uint8)
    labels[20:40, 30:50] = 1
    picture = np.random.default_rng(0).integers(0, 255, (60, 80, 3)).astype(np.uint8)
    given = np.ones((1, 1), bool)
    image = Video(
        "im",
        "images",
        ["im"],
        ["im.png"],
        lambda t: picture,
        lambda t: labels,
        lambda: Objects(np.array([1]), given, ~given, None, labels.shape),
    )
    made = Examples(
        [Source("s", [image])],
        seed=0,
        frames=3,
        crop=CROP,
        groups=((0, 1, 2),),
        max_objects=1,
        choose="still",
        warp=Warp(rotate=20.0, zoom=(0.8, 1.2)),
    ).example(0)
    assert (made["labels"][0] != made["labels"][1]).any()
    assert (made["labels"] == 1).any(axis=(1, 2)).all()
