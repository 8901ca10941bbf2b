"""Training examples with instances: geometry, choice of frames, reproducibility."""

import dataclasses
import pickle

import numpy as np
import pytest

from vos_jax.data.instance_examples import InstanceExamples, fitted_size, turn
from vos_jax.data.instances import Instances, InstanceVideo
from vos_jax.data.painted import PaintedVideo
from vos_jax.data.pipeline import batches
from vos_jax.data.rle import encode
from vos_jax.data.sources import Source, open_sources
from vos_jax.data.warp import Warp

CANVAS, SIDES = (32, 64), (56, 32)


def masks_of(t):
    """A square that moves, one that is hidden behind it in frame 0, and a crowd."""
    masks = np.zeros((3, 16, 24), bool)
    masks[0, 4:10, 2 + t : 10 + t] = True
    if t:
        masks[1, 8:14, 12:20] = True
    masks[2, 0:3] = True
    return masks


def load_frame(t):
    frame = np.full((16, 24, 3), 10 * t, np.uint8)
    frame[masks_of(t)[0]] = 200
    return frame


def load_rles(t):
    return encode(masks_of(t))


def describe():
    return Instances(
        ids=np.array([4, 9, 11], np.int32),
        classes=np.array([2, 1, 1], np.int32),
        crowd=np.array([False, False, True]),
        valid=np.array([[True, False, True], [True, True, True], [True, True, True]]),
        categories=["cat", "dog"],
        original_size=(16, 24),
    )


def source(load=load_frame):
    video = InstanceVideo("v", "toy", ["a", "b", "c"], load, load_rles, describe)
    return Source("toy", [PaintedVideo(video)])


def examples(**options):
    given = dict(frames=2, canvas=CANVAS, sides=SIDES, flip=0.0, max_objects=3, seed=1)
    return InstanceExamples([source(options.pop("load", load_frame))], **{**given, **options})


def test_frames_boxes_and_masks_agree_and_fill_the_canvas_from_its_corner():
    for i in range(6):
        example = examples().example(i)
        assert example["size"].tolist() == [32, 48]
        assert example["name"] == "toy/v"
        assert (example["frames"][:, :, 48:] == 0).all() and not example["masks"][..., 48:].any()
        assert example["classes"].tolist()[:2] == [2, 1]  # the crowd has no slot
        for t, source_t in enumerate(example["source_index"]):
            expected = np.float32([2 + source_t, 4, 10 + source_t, 10]) * 2
            np.testing.assert_allclose(example["boxes"][t, 0], expected)
            rows, columns = np.nonzero(example["masks"][t, 0])
            found = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            np.testing.assert_allclose(found, expected)
            assert (example["frames"][t][example["masks"][t, 0]] > 100).mean() > 0.9
            assert example["valid"][t].tolist() == [True, source_t > 0, False]


def test_a_flip_mirrors_frames_boxes_and_masks_alike():
    plain, mirrored = examples().example(3), examples(flip=1.0).example(3)
    assert (plain["source_index"] == mirrored["source_index"]).all()
    width = plain["size"][1]
    for name in ("frames", "masks"):
        axis = 2 if name == "frames" else 3
        cut = [np.take(x[name], range(width), axis) for x in (plain, mirrored)]
        np.testing.assert_array_equal(np.flip(cut[0], axis), cut[1])
    found, x = mirrored["boxes"][:, 0], plain["boxes"][:, 0]
    np.testing.assert_allclose(found[:, [2, 0]], width - x[:, [0, 2]])


def test_frames_are_a_key_frame_and_others_or_in_order_around_it():
    drawn = [examples(frames=2).example(i)["source_index"].tolist() for i in range(40)]
    assert {tuple(pair) for pair in drawn} == {(a, b) for a in range(3) for b in range(3) if a != b}
    drawn = [
        examples(frames=3, choose="around", reach=2).example(i)["source_index"].tolist()
        for i in range(40)
    ]
    assert all(frames == sorted(frames) for frames in drawn)
    assert {frames[1] for frames in drawn} == {0, 1, 2}
    four = examples(frames=4).example(0)["source_index"]
    assert len(four) == 4 and set(four) == {0, 1, 2}  # of fewer frames some come twice


def test_of_more_instances_than_slots_those_of_the_key_frame_come_first():
    found = [examples(frames=1, max_objects=1).example(i) for i in range(30)]
    first = [e for e in found if e["source_index"][0] == 0]
    assert first and all(e["classes"].tolist() == [2] for e in first)
    assert {e["classes"][0] for e in found} == {1, 2}
    assert all(e["valid"].all() for e in found)


def test_an_example_depends_on_seed_and_number_alone():
    one, other = examples(), pickle.loads(pickle.dumps(examples()))
    for i in (7, 2):
        first, second = one.example(i), other.example(i)
        assert first.keys() == second.keys() == one.columns().keys()
        for name, x in one.columns().items():
            if name != "name":
                np.testing.assert_array_equal(first[name], second[name])
                assert first[name].shape == x.shape and first[name].dtype == x.dtype
    changed = [examples(seed=2).example(i)["source_index"].tolist() for i in range(8)]
    assert changed != [one.example(i)["source_index"].tolist() for i in range(8)]


def test_batches_stack_all_columns():
    rows = next(batches(examples(), 4, 3))
    assert rows["masks"].shape == (3, 2, 3, *CANVAS) and rows["masks"].dtype == bool
    np.testing.assert_array_equal(rows["boxes"][1], examples().example(5)["boxes"])


def test_frames_keep_their_aspect_and_fit_into_sides_and_canvas():
    assert fitted_size((720, 1280), (640, 360), (384, 640)) == (360, 640)
    assert fitted_size((480, 640), (640, 360), (384, 640)) == (360, 480)
    assert fitted_size((1280, 720), (640, 360), (384, 640)) == (384, 216)  # portrait
    assert fitted_size((90, 160), (640, 360), (384, 640)) == (360, 640)


def test_what_cannot_be_trained_on_is_refused_with_its_name():
    with pytest.raises(ValueError, match="config.data.sides: expected long and short side"):
        examples(sides=(80, 32))
    with pytest.raises(ValueError, match="clip.choose: expected one of"):
        examples(choose="still")
    labels = open_sources({"train": {"s": {"kind": "synthetic", "split": "train"}}}, "train")
    with pytest.raises(ValueError, match="source s: expected videos or images with instances"):
        InstanceExamples(
            labels, frames=2, canvas=CANVAS, sides=SIDES, flip=0, max_objects=2, seed=0
        )


def broken(t):
    if t == 1:
        raise ValueError("b.jpg is damaged")
    return load_frame(t)


def test_a_file_that_cannot_be_read_is_an_error_or_counted():
    with pytest.raises(ValueError, match="b.jpg is damaged"):
        [examples(load=broken).example(i) for i in range(10)]
    skipping = examples(load=broken, on_bad_clip="skip")
    found = [set(skipping.example(i)["source_index"].tolist()) for i in range(10)]
    assert skipping.bad_clips > 0 and all(1 not in frames for frames in found)


def test_synthetic_vis_is_a_source_of_it():
    data = {"train": {"s": {"kind": "synthetic_vis", "split": "train", "videos": 4}}}
    made = InstanceExamples(
        open_sources(data, "train"),
        frames=2,
        canvas=(96, 160),
        sides=(160, 96),
        flip=0.5,
        max_objects=4,
        seed=0,
    )
    example = made.example(0)
    assert example["size"].tolist() == [96, 160] and example["valid"][0].any()
    inside = example["frames"].std(axis=(1, 2, 3))
    assert (inside > 5).all()


def still():
    """An image with the masks of frame 2."""
    facts = describe()
    facts = dataclasses.replace(facts, valid=facts.valid[2:])
    video = InstanceVideo("s", "toy", ["a"], lambda t: load_frame(2), lambda t: load_rles(2),
                          lambda: facts)  # fmt: skip
    return Source("still", [PaintedVideo(video)])


def around(mask):
    y, x = np.nonzero(mask)
    return [x.min(), y.min(), x.max() + 1, y.max() + 1]


def test_every_frame_that_shows_an_object_is_the_key_frame_once_in_an_epoch():
    for choose, frames in (("any_other", 1), ("around", 3)):
        made = examples(choose=choose, frames=frames)
        keys = [int(made.example(i)["source_index"][frames // 2]) for i in range(60)]
        epochs = [keys[i : i + 3] for i in range(0, 60, 3)]
        assert all(sorted(epoch) == [0, 1, 2] for epoch in epochs)
        assert len({tuple(epoch) for epoch in epochs}) > 3


def test_sources_take_turns_by_their_weights_and_none_is_skipped():
    for weights in ([1.0], [2.0, 1.0], [1.0, 3.0, 0.5], [0.1, 0.2, 0.3]):
        turns = [turn(i, weights) for i in range(900)]
        for source, weight in enumerate(weights):
            numbers = [number for s, number in turns if s == source]
            assert numbers == list(range(len(numbers)))
            assert abs(len(numbers) - 900 * weight / sum(weights)) <= len(weights)


def test_several_sources_are_mixed():
    two = dict(frames=1, canvas=CANVAS, sides=SIDES, flip=0.0, max_objects=3, seed=1)
    made = InstanceExamples([source(), still()._replace(weight=0.5)], **two)
    names = [made.example(i)["name"] for i in range(9)]
    assert names.count("toy/v") == 6 and names.count("toy/s") == 3


def test_a_still_comes_with_warped_views_of_itself_and_a_video_does_not():
    warp = Warp(rotate=20, zoom=(0.8, 1.2), shift=0.1)
    given = dict(canvas=CANVAS, sides=SIDES, flip=0.5, max_objects=3, seed=1)
    for choose, frames, key in (("any_other", 2, 0), ("around", 3, 1)):
        options = dict(given, choose=choose, frames=frames)
        plain = InstanceExamples([still()], **options).example(0)
        assert all((masks == plain["masks"][0]).all() for masks in plain["masks"])
        warped = InstanceExamples([still()], warp=warp, **options).example(0)
        assert (warped["masks"][key] == plain["masks"][0]).all()
        assert (warped["frames"][key] == plain["frames"][0]).all()
        for t in set(range(frames)) - {key}:
            assert (warped["masks"][t] != plain["masks"][0]).any()
            for n in np.flatnonzero(warped["valid"][t]):
                assert warped["boxes"][t, n].tolist() == around(warped["masks"][t, n])
    moving, same = (InstanceExamples([source()], frames=2, warp=w, **given) for w in (warp, None))
    assert (moving.example(4)["frames"] == same.example(4)["frames"]).all()


def test_inclusive_boxes_end_at_their_last_pixel_before_they_are_scaled():
    found = [
        examples(frames=1, inclusive=inclusive, flip=flip).example(0)
        for flip in (0.0, 1.0)
        for inclusive in (False, True)
    ]
    t = int(found[0]["source_index"][0])
    left, right = 2 * (2 + t), 2 * (10 + t)
    boxes = [example["boxes"][0, 0].tolist() for example in found]
    assert boxes[0] == [left, 8, right, 20]
    assert boxes[1] == [left, 8, right - 2, 18]  # (x2 - 1) * 2, (y2 - 1) * 2
    assert boxes[2] == [48 - right, 8, 48 - left, 20]
    assert boxes[3] == [47 - (right - 2), 8, 47 - left, 18]
