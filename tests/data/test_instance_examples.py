"""Training examples of instances: which frames, in which order, scaled, flipped, on a canvas."""

import pickle

import cv2
import numpy as np
import pytest

from vos_jax.data.instance_examples import InstanceExamples, with_instance
from vos_jax.data.instances import Instances, InstanceVideo
from vos_jax.data.rle import encode
from vos_jax.data.synthetic_vis import synthetic_vis_videos
from vos_jax.data.warp import Warp

SIZE = (48, 80)
PLAIN = dict(image_scales=[(80, 48)], canvas=(64, 96), flip=0.0)


def video(frames=4, count=2, size=SIZE, fails=(), crowd=(), name="v"):
    """Instance n is a square that moves; it has a mask in every frame; boxes are the masks' own."""
    masks = np.zeros((frames, count, *size), bool)
    for t in range(frames):
        for n in range(count):
            masks[t, n, 2 + n : 14 + n, 5 * n + 3 * t : 5 * n + 3 * t + 12] = True

    def frame(t):
        if t in fails:
            raise ValueError("broken")
        return np.full((*size, 3), 10 * t + 5, np.uint8)

    facts = Instances(
        ids=np.arange(count, dtype=np.int32) + 7,
        classes=np.arange(count, dtype=np.int32) % 3 + 1,
        crowd=np.isin(np.arange(count), crowd),
        valid=np.ones((frames, count), bool),
        categories=["a", "b", "c"],
        original_size=size,
    )
    names = [f"{t}" for t in range(frames)]
    return InstanceVideo(name, "set", names, frame, lambda t: encode(masks[t]), lambda: facts)


def test_at_its_own_size_an_example_is_the_clip():
    examples = InstanceExamples([video()], choose="pair", max_instances=3, **PLAIN)
    example, clip = examples.example(5), video().clip()
    key, other = example["source_index"]
    assert key != other and example["name"] == b"set/v" and example["size"].tolist() == [48, 80]
    for row, t in enumerate((key, other)):
        assert (example["frames"][row, :48, :80] == clip.frames[t]).all()
        assert (example["masks"][row, :2, :48, :80] == clip.masks[t]).all()
        assert (example["boxes"][row, :2] == clip.boxes[t]).all()
    assert example["valid"].tolist() == [[True, True, False]] * 2
    assert example["classes"].tolist() == [1, 2, 0] and example["ids"].tolist() == [7, 8, 0]
    assert not example["frames"][:, 48:].any() and not example["frames"][:, :, 80:].any()
    assert not example["masks"][:, 2].any() and not example["masks"][:, :, 48:].any()


def test_the_columns_are_those_of_the_blank_one_and_depend_on_seed_and_number_alone():
    videos = synthetic_vis_videos("train", 4)
    options = dict(choose="around", image_scales=[(160, 96), (96, 64)], canvas=(96, 160), seed=3)
    examples = InstanceExamples(videos, **options)
    ahead = pickle.loads(pickle.dumps(examples)).example(91)
    for i in (7, 91):
        example = examples.example(i)
        assert example.keys() == examples.columns().keys()
        for name, value in examples.columns().items():
            assert np.shape(example[name]) == np.shape(value)
            assert np.asarray(example[name]).dtype.kind == np.asarray(value).dtype.kind
    assert all(np.array_equal(example[name], ahead[name]) for name in ahead)
    other = InstanceExamples(videos, **{**options, "seed": 4}).example(91)
    assert not np.array_equal(other["frames"], ahead["frames"])


def test_every_frame_with_an_instance_is_key_once_an_epoch():
    videos = [video(3, name="a"), video(5, name="b"), video(2, crowd=(0, 1), name="c")]
    examples = InstanceExamples(videos, choose="key", **PLAIN)
    assert len(examples) == 8  # crowds make no key frame
    epochs = [
        [
            (e["name"], int(e["source_index"][0]))
            for e in map(examples.example, range(8 * n, 8 * n + 8))
        ]
        for n in (0, 1)
    ]
    assert len(set(epochs[0])) == 8 and set(epochs[0]) == set(epochs[1])
    assert epochs[0] != epochs[1]


def test_the_frames_around_a_key_are_within_reach_and_in_the_video():
    examples = InstanceExamples([video(6)], choose="around", reach=2, **PLAIN)
    times = [examples.example(i)["source_index"].tolist() for i in range(40)]
    assert all(before <= key <= after for before, key, after in times)
    assert {key - before for before, key, _ in times} == {0, 1, 2}
    assert all(key in (0, before + 1, before + 2) for before, key, _ in times)


def test_scaling_flipping_and_fitting_move_boxes_and_masks_together():
    for size in (SIZE, (80, 48), (120, 200)):
        examples = InstanceExamples(
            [video(size=size)], choose="key", image_scales=[(160, 96)], canvas=(96, 160), flip=0.5
        )
        flips = set()
        for i in range(8):
            example = examples.example(i)
            height, width = example["size"]
            factor = min(96 / size[0], 160 / size[1], 160 / max(size), 96 / min(size))
            assert (height, width) == (int(size[0] * factor + 0.5), int(size[1] * factor + 0.5))
            for n in range(2):
                y, x = np.nonzero(example["masks"][0, n])
                around = [x.min(), y.min(), x.max() + 1, y.max() + 1]
                np.testing.assert_allclose(example["boxes"][0, n], around, atol=1)
            t = example["source_index"][0]
            flips.add(bool(abs(example["boxes"][0, 0, 0] - 3 * t * factor) > 1))
        assert flips == {True, False}


def test_inclusive_boxes_end_at_their_last_pixel_before_they_are_scaled():
    options = dict(choose="key", image_scales=[(160, 96)], canvas=(96, 160))
    boxes = [
        InstanceExamples([video(1)], inclusive=inclusive, flip=flip, **options).example(0)["boxes"]
        for flip in (0.0, 1.0)
        for inclusive in (False, True)
    ]
    assert boxes[0][0, 1].tolist() == [10, 6, 34, 30]
    assert boxes[1][0, 1].tolist() == [10, 6, 32, 28]  # (17 - 1) * 2, (15 - 1) * 2
    assert boxes[2][0, 1].tolist() == [160 - 34, 6, 160 - 10, 30]
    assert boxes[3][0, 1].tolist() == [159 - 32, 6, 159 - 10, 28]


def test_a_still_has_warped_views_of_itself():
    still = video(1)
    plain = InstanceExamples([still], choose="pair", **PLAIN).example(0)
    assert (plain["masks"][0] == plain["masks"][1]).all()
    warp = Warp(rotate=20, zoom=(0.8, 1.2), shift=0.1)
    for choose, key in (("pair", 0), ("around", 1)):
        example = InstanceExamples([still], choose=choose, warp=warp, **PLAIN).example(0)
        assert (example["masks"][key] == plain["masks"][0]).all()
        for row in set(range(len(example["masks"]))) - {key}:
            assert (example["masks"][row] != plain["masks"][0]).any()
            for n in np.flatnonzero(example["valid"][row]):
                y, x = np.nonzero(example["masks"][row, n])
                around = [x.min(), y.min(), x.max() + 1, y.max() + 1]
                assert example["boxes"][row, n].tolist() == around
    moving = InstanceExamples([video(4)], choose="pair", warp=warp, **PLAIN).example(0)
    t = moving["source_index"][1]
    assert (moving["masks"][1, :2, :48, :80] == video(4).masks(t)).all()  # frames of a video stay


def test_more_instances_than_slots_are_chosen_at_random_and_counted():
    examples = InstanceExamples([video(2, count=6)], choose="key", max_instances=4, **PLAIN)
    ids = {tuple(examples.example(i)["ids"]) for i in range(12)}
    assert len(ids) > 3 and all(list(chosen) == sorted(chosen) for chosen in ids)
    assert examples.left_out == 2 * 12


def test_a_broken_file_stops_training_unless_it_may_be_skipped():
    with pytest.raises(ValueError, match="broken"):
        [InstanceExamples([video(fails=(2,))], choose="key", **PLAIN).example(i) for i in range(4)]
    examples = InstanceExamples([video(fails=(2,))], choose="key", on_bad_clip="skip", **PLAIN)
    times = [int(examples.example(i)["source_index"][0]) for i in range(4)]
    assert 2 not in times and examples.bad_clips == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"choose": "triple"}, r"clip.choose: expected one of \('key', 'pair', 'around'\)"),
        ({"canvas": (360, 640)}, "data.canvas: expected .* multiples of 32"),
        ({"on_bad_clip": "ignore"}, "on_bad_clip: expected 'raise' or 'skip'"),
        ({"videos": [video(crowd=(0, 1))]}, "found none in 1"),
    ],
)
def test_wrong_options_name_the_field(options, message):
    videos = options.pop("videos", [video()])
    with pytest.raises(ValueError, match=message):
        InstanceExamples(videos, **options)


def test_frames_without_an_instance_are_no_key_frames():
    videos = synthetic_vis_videos("test", 4)
    hidden = videos[3]
    assert 0 < len(with_instance(hidden)) < len(hidden)
    examples = InstanceExamples([hidden], choose="key", **PLAIN)
    for example in map(examples.example, range(len(examples))):
        (t,) = example["source_index"]
        assert t in with_instance(hidden)
        scaled = cv2.resize(hidden.frame(t), (80, 48))
        assert (example["frames"][0, :48, :80] == scaled).all()
