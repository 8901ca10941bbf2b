"""Instances as label maps: what lies on top, what is void, what is known of the objects."""

import numpy as np
import pytest

from tests.data.test_still_instances import coco, polygons
from vos_jax.data.instances import Instances, InstanceVideo
from vos_jax.data.objects import Choice
from vos_jax.data.painted import PaintedVideo
from vos_jax.data.pipeline import Examples
from vos_jax.data.rle import encode
from vos_jax.data.sources import open_sources
from vos_jax.data.synthetic_instances import CLASSES, open_synthetic_instances


def video(masks, classes, crowd=None, **options):
    """One frame with these masks."""
    masks = np.asarray(masks, bool)
    facts = Instances(
        ids=np.arange(1, len(masks) + 1, dtype=np.int32),
        classes=np.array(classes, np.int32),
        crowd=np.zeros(len(masks), bool) if crowd is None else np.array(crowd),
        valid=masks.any(axis=(1, 2))[None],
        categories=["cat", "dog"],
        original_size=masks.shape[1:],
    )
    frame = np.zeros((*masks.shape[1:], 3), np.uint8)
    return InstanceVideo(
        "one", "some", ["00000"], lambda t: frame, lambda t: encode(masks), lambda: facts, **options
    )


def square(top, left, side, size=(8, 10)):
    mask = np.zeros(size, bool)
    mask[top : top + side, left : left + side] = True
    return mask


def test_small_instances_lie_on_large_ones_and_both_on_crowds():
    masks = [square(2, 2, 2), square(0, 0, 6), square(0, 0, 8), square(5, 5, 3)]
    painted = PaintedVideo(video(masks, [2, 1, 1, 2], crowd=[False, False, True, False]))
    labels = painted.mask(0)
    assert labels[2, 2] == 1 and labels[0, 0] == 2 and labels[7, 0] == 255 and labels[7, 7] == 3
    assert labels[5, 5] == 3 and labels[0, 9] == 0
    assert painted.ids.tolist() == [1, 2, 3] and painted.categories == ["dog", "cat", "dog"]
    assert painted.given.all() and painted.scored.all()


def test_an_instance_without_pixels_is_not_given():
    painted = PaintedVideo(video([square(0, 0, 3), square(0, 0, 0)], [1, 2]))
    assert painted.given.tolist() == [[True, False]]
    assert np.unique(painted.mask(0)).tolist() == [0, 1]


def test_training_takes_the_largest_instances_with_their_classes():
    data = {"train": {"images": {"kind": "synthetic_instances", "split": "train", "images": 8}}}
    sources = open_sources(data, "train")
    examples = Examples(
        sources,
        frames=1,
        crop=(64, 96),
        fit="stretch",
        scale=(1.0, 1.0),
        flip=0.0,
        groups=((0,),),
        max_objects=2,
        seed=0,
        choose="still",
        objects=Choice("largest", 0),
        classes=CLASSES,
    )
    videos, dropped = {video.name: video.source for video in sources[0].videos}, 0
    for i in range(12):
        example = examples.example(i)
        source = videos[example["name"].split("/")[1]]
        masks = source.masks(0)
        order = np.argsort(-masks.sum(axis=(1, 2)), kind="stable")
        chosen = np.sort(order[:2])
        dropped += len(order) - len(chosen)
        for k, instance in enumerate(chosen):
            np.testing.assert_array_equal(example["labels"][0] == k + 1, masks[instance])
            assert example["classes"][k] == source.classes[instance]
        assert example["valid"].sum() == len(chosen)
        assert not example["classes"][len(chosen) :].any()
    assert dropped > 0


@pytest.mark.parametrize("split", ["train", "test"])
def test_synthetic_images_follow_from_their_number_and_are_seen_well(split):
    first = open_synthetic_instances(split, images=12)
    again = open_synthetic_instances(split, images=30)
    counts, classes = set(), set()
    for one, other in zip(first, again, strict=False):
        np.testing.assert_array_equal(one.frame(0), other.frame(0))
        np.testing.assert_array_equal(one.masks(0), other.masks(0))
        assert (one.masks(0).sum(axis=0) <= 1).all() and one.masks(0).any(axis=(1, 2)).all()
        counts.add(len(one.ids))
        classes |= {one.categories[k - 1] for k in one.classes}
    assert counts == {1, 2, 3} and classes == set(CLASSES)
    other = open_synthetic_instances("test" if split == "train" else "train", images=1)
    assert (other[0].frame(0) != first[0].frame(0)).any()


@pytest.mark.parametrize(("kind", "write"), [("coco", coco), ("polygons", polygons)])
def test_files_of_images_are_sources_of_label_maps(tmp_path, kind, write):
    entry = {"kind": kind, "dir": str(write(tmp_path))}
    if kind == "coco":
        entry["split"] = "val"
    videos = open_sources({"train": {"images": entry}}, "train")[0].videos
    shown = {video.name: np.unique(video.mask(0)).tolist() for video in videos}
    assert shown == {"a": [0, 1, 255] if kind == "coco" else [1, 2], "b": [0]}


@pytest.mark.parametrize(
    ("entry", "message"),
    [({"split": "val"}, "has no split 'val'"), ({"split": "test", "images": -1}, "0 to 100000")],
)
def test_synthetic_images_that_are_not_there_are_refused(entry, message):
    with pytest.raises(ValueError, match=message):
        open_sources({"train": {"s": {"kind": "synthetic_instances", **entry}}}, "train")
