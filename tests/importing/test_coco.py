"""COCO's and YouTube-VIS' json as a data set."""

import json

import numpy as np
import pytest

from tests.data.trees import SIZE, frame, labels, write_image
from tests.importing.runs import FRAMES, imported, rectangle, refused
from vos_jax.data.rle import encode

CATEGORIES = [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}]


def coco(path, annotations, prefix="", **changes):
    images = [
        {"id": 10 - t, "file_name": f"{prefix}{t:05d}.jpg", "height": SIZE[0], "width": SIZE[1]}
        for t in range(FRAMES)
    ]
    content = {"images": images, "categories": CATEGORIES, "annotations": annotations}
    path.write_text(json.dumps(content | changes))


def entry(number, t, object_id, **changes):
    facts = {"id": number, "image_id": 10 - t, "category_id": (3, 7)[object_id - 1]}
    return facts | {"segmentation": [rectangle(labels(t) == object_id)]} | changes


@pytest.mark.parametrize("where", ["track_id", "instance_id", "attributes"])
def test_coco_objects_are_told_by_their_track(place, where):
    def track(k):
        return {where: {"track_id": f"no {k}"} if where == "attributes" else k}

    entries = [entry(10 * t + k, t, k, **track(k)) for t in range(FRAMES) for k in (2, 1)]
    coco(place / "a.json", entries)
    video = imported(place, "coco", "a.json")[0]
    expected = np.array([0, 2, 1], np.uint8)  # the second object is listed first
    for t in range(FRAMES):
        np.testing.assert_array_equal(video.mask(t), expected[labels(t)])
    assert json.loads((place / "mine/objects.json").read_text())["frames"] == {
        "1": "dog",
        "2": "cat",
    }


def test_coco_without_tracks_goes_by_order_and_says_so(place, capsys):
    coco(place / "a.json", [entry(10 * t + k, t, k) for t in (1, 2) for k in (1, 2)])
    video = imported(place, "coco", "a.json")[0]
    assert video.frame_names == ["00001", "00002", "00003"]  # from the first object on
    np.testing.assert_array_equal(video.mask(0), labels(1))
    assert not video.mask(2).any()
    assert "the n-th annotation of every image is taken for object n" in capsys.readouterr().err


def test_coco_crowds_are_void_and_later_shapes_lie_over_earlier_ones(place):
    whole = np.ones(SIZE, bool)
    crowd = encode(labels(0)[None] == 2)[0]
    entries = [
        entry(1, 0, 1, track_id=1, segmentation=[rectangle(whole)]),
        entry(2, 0, 1, track_id=2),
        entry(3, 0, 2, iscrowd=1, segmentation=crowd),
    ]
    coco(place / "a.json", entries)
    mask = imported(place, "coco", "a.json")[0].mask(0)
    np.testing.assert_array_equal(mask, np.array([1, 2, 255], np.uint8)[labels(0)])


def test_coco_folders_are_sequences(tmp_path):
    for t in range(FRAMES):
        write_image(tmp_path / f"frames/clip/{t:05d}.jpg", frame(t))
    coco(tmp_path / "a.json", [entry(1, 0, 1, track_id=1)], prefix="clip/")
    assert [video.name for video in imported(tmp_path, "coco", "a.json")] == ["clip"]


COCO = {
    "some without track": (
        [entry(1, 0, 1, track_id=1), entry(2, 0, 2)],
        {},
        "1 of 2 annotations have no track_id or instance_id, the others do",
    ),
    "an unknown image": (
        [entry(1, 0, 1, image_id=99)],
        {},
        "not list: 99, of annotation 1; it lists 10, 9",
    ),
    "an id of no image": ([entry(1, 0, 1, image_id=[])], {}, r"not list: \[\], of annotation 1"),
    "boxes": ([entry(1, 0, 1, segmentation=None)], {}, "annotation 1: has no segmentation; a box"),
    "a path out": (
        [],
        {"images": [{"id": 1, "file_name": "../../x.jpg", "height": 48, "width": 64}]},
        r"image 1: expected the name of a frame in its folder, found '\.\./\.\./x\.jpg'",
    ),
    "another size": (
        [],
        {"images": [{"id": 1, "file_name": "00000.jpg", "height": 48, "width": 65}]},
        "image 1: annotated at 48x65",
    ),
    "one frame twice": (
        [],
        {
            "images": [
                {"id": n, "file_name": "00000.jpg", "height": 48, "width": 64} for n in (1, 2)
            ]
        },
        "image 2: a second image of the frame 00000.jpg",
    ),
    "nothing drawn": ([], {}, "no object is visible in any of 4 annotated frames"),
}


@pytest.mark.parametrize("fault", COCO)
def test_coco_files_of_another_form_are_refused_by_name(place, fault):
    annotations, changes, message = COCO[fault]
    coco(place / "a.json", annotations, **changes)
    refused(place, "coco", "a.json", message)


def youtube_vis(root, **changes):
    for t in range(FRAMES):
        write_image(root / f"frames/clip/{5 * t:05d}.jpg", frame(t))
    names = [f"clip/{5 * t:05d}.jpg" for t in range(FRAMES)]
    video = {"id": 1, "height": SIZE[0], "width": SIZE[1], "length": FRAMES, "file_names": names}
    annotations = []
    for k in (1, 2):
        masks = [encode(labels(t)[None] == k)[0] if t + 1 >= k else None for t in range(FRAMES)]
        facts = {"id": 50 + k, "video_id": 1, "category_id": (3, 7)[k - 1], "iscrowd": 0}
        annotations.append(facts | {"segmentations": masks})
    content = {"videos": [video], "categories": CATEGORIES, "annotations": annotations}
    (root / "a.json").write_text(json.dumps(content | changes))
    return root


def test_youtube_vis_tracks_are_objects(tmp_path):
    video = imported(youtube_vis(tmp_path), "youtube-vis", "a.json")[0]
    assert video.name == "clip" and video.frame_names == ["00000", "00005", "00010", "00015"]
    np.testing.assert_array_equal(video.mask(0), np.where(labels(0) == 2, 0, labels(0)))
    np.testing.assert_array_equal(video.mask(3), labels(3))


def test_youtube_vis_without_truth_is_refused(tmp_path):
    refused(youtube_vis(tmp_path, annotations=None), "youtube-vis", "a.json", "withheld")
