"""YouTube-VIS in its official layouts and as prepared by TensorFlow Datasets."""

import json
import pickle

import cv2
import numpy as np
import pytest

from tests.metrics.tracks import discs, rles_of
from vos_jax.data.instances import require_truth
from vos_jax.data.rle import decode, run_lengths
from vos_jax.data.tfds_youtube_vis import open_tfds_youtube_vis
from vos_jax.data.track_files import read_annotations
from vos_jax.data.youtube_vis import in_part, open_youtube_vis

SIZE = (30, 40)
TRIANGLE = [[2, 2, 20, 2, 20, 20]]


def numbers(rle):
    """A mask as run lengths in numbers, the form of the released files."""
    return {"size": rle["size"], "counts": run_lengths([rle["counts"]], [""])[0].tolist()}


def content_of(frames=4):
    """Two videos; the first has a track of numbers, a crowd of polygons, an absent frame."""
    masks = discs(np.random.default_rng(1), frames, 2, SIZE)
    masks[2, 0] = False
    a, b = rles_of(masks)
    box = [1.5, 2.0, 10.0, 8.5]
    facts = {"video_id": 17, "iscrowd": 0, "height": SIZE[0], "width": SIZE[1]}
    annotations = [
        {**facts, "id": 31, "category_id": 9}
        | {"segmentations": [rle and numbers(rle) for rle in a]}
        | {"areas": [rle and 40 for rle in a], "bboxes": [rle and box for rle in a]},
        {**facts, "id": 5, "category_id": 2, "iscrowd": 1}
        | {"segmentations": [TRIANGLE, None, b[2], b[3]]}
        | {"areas": [100, None, 90, 0], "bboxes": [box, None, box, box]},
    ]
    videos = [
        {"id": number, "height": SIZE[0], "width": SIZE[1], "length": frames}
        | {"file_names": [f"{name}/{5 * t:05d}.jpg" for t in range(frames)]}
        for number, name in ((20, "second"), (17, "first"))
    ]
    categories = [{"id": 9, "name": "dog"}, {"id": 2, "name": "cat"}]
    return {"videos": videos, "categories": categories, "annotations": annotations}, masks


def tree(root, name="train.json", split="train", **changes):
    """The layout of 2019 with JPEG frames, and the true masks of the first video."""
    content, masks = content_of()
    content |= changes
    for video in content["videos"]:
        for t, file in enumerate(video["file_names"]):
            path = root / split / "JPEGImages" / file
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), np.full((*SIZE, 3), 40 + 20 * t, np.uint8))
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(json.dumps(content))
    return root, masks


def test_tracks_of_every_form_become_instances(tmp_path):
    root, masks = tree(tmp_path)
    first, second = open_youtube_vis(str(root), "train")
    assert (first.name, first.video_id, first.category_ids) == ("first", 17, [2, 9])
    clip = pickle.loads(pickle.dumps(first)).clip()
    assert clip.frame_names == ["00000", "00005", "00010", "00015"]
    assert clip.frames[:, 0, 0, 0].tolist() == [40, 60, 80, 100]
    assert clip.ids.tolist() == [31, 5] and clip.classes.tolist() == [2, 1]
    assert clip.crowd.tolist() == [False, True] and clip.categories == ["cat", "dog"]
    # an entry that is null, or of no area, is no mask
    assert clip.valid.T.tolist() == [[True, True, False, True], [True, False, True, False]]
    assert (clip.masks[:, 0] == masks[:, 0]).all()
    assert (clip.masks[2, 1] == masks[2, 1]).all() and 100 < clip.masks[0, 1].sum() < 220
    assert clip.boxes[0, 0].tolist() == [1.5, 2.0, 11.5, 10.5] and not clip.boxes[2, 0].any()
    assert len(second.ids) == 0 and second.clip().masks.shape == (4, 0, *SIZE)


@pytest.mark.parametrize(
    "name", ["train/instances.json", "annotations/instances_train.json",
             "annotations/instances_train_sub.json"],
)  # fmt: skip
def test_annotations_are_found_where_the_releases_have_them(tmp_path, name):
    assert len(open_youtube_vis(str(tree(tmp_path, name)[0]), "train")) == 2


def test_files_may_lie_elsewhere(tmp_path):
    root, _ = tree(tmp_path, "own/mine.json", split="images")
    with pytest.raises(FileNotFoundError, match="split 'train' as one of train.json, train/inst"):
        open_youtube_vis(str(root), "train")
    options = {"annotations": "own/mine.json", "images": "images/JPEGImages"}
    assert open_youtube_vis(str(root), "train", **options)[0].frame(0).shape == (*SIZE, 3)


def test_without_boxes_those_around_the_masks_are_taken(tmp_path):
    content, masks = content_of()
    for annotation in content["annotations"]:
        del annotation["bboxes"]
    root, _ = tree(tmp_path, annotations=content["annotations"])
    y, x = np.nonzero(masks[0, 0])
    box = open_youtube_vis(str(root), "train")[0].boxes(0)[0]
    assert box.tolist() == [x.min(), y.min(), x.max() + 1, y.max() + 1]


def test_a_part_depends_on_the_id_alone_and_the_rest_is_all_others():
    ids = [3, 8, 9, 10, 19, 21, 40]
    assert in_part(ids, "9/10") == [3, 8, 10, 21, 40]
    assert in_part(ids, "rest of 9/10") == [9, 19]
    assert in_part(ids, "") == ids
    assert sorted(in_part(ids, "1/3") + in_part(ids, "rest of 1/3")) == ids
    for part in ("9", "10/9", "0/3", "last 9/10"):
        with pytest.raises(ValueError, match="expected part such as '9/10' or 'rest of 9/10'"):
            in_part(ids, part)


def test_without_areas_those_of_the_masks_count(tmp_path):
    content, masks = content_of()
    tracks = [dict(annotation) for annotation in content["annotations"]]
    del tracks[0]["areas"]
    root, _ = tree(tmp_path, annotations=tracks)
    file = read_annotations(root / "train.json")
    first, second = file.truths(17)
    assert first.area == masks[[0, 1, 3], 0].sum((1, 2)).mean()
    assert second.area == 95 and second.crowd and not first.crowd


def test_parts_of_a_split(tmp_path):
    root, _ = tree(tmp_path)
    assert [v.video_id for v in open_youtube_vis(str(root), "train", part="5/10")] == [20]
    assert [v.video_id for v in open_youtube_vis(str(root), "train", part="rest of 5/10")] == [17]
    with pytest.raises(ValueError, match="part '1/100' holds none of 2 videos"):
        open_youtube_vis(str(root), "train", part="1/100")


@pytest.mark.parametrize("annotations", [None, []])
def test_withheld_annotations_are_said_to_be_so(tmp_path, annotations):
    root, _ = tree(tmp_path, "valid.json", split="valid", annotations=annotations)
    with pytest.raises(ValueError, match=r"valid.json: the file has no annotations.*withheld"):
        open_youtube_vis(str(root), "valid")
    videos = open_youtube_vis(str(root), "valid", truth=False)
    assert len(videos[0].clip().frames) == 4 and not videos[0].annotated
    with pytest.raises(ValueError, match="annotations of 2 videos are withheld"):
        require_truth(videos)


def edited(change):
    content, _ = content_of()
    change(content)
    return content


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["annotations"][0].update(category_id=3), "annotation 31: category_id is 3"),
        (lambda c: c["annotations"][1].update(id=31), "video 17: expected annotations of diff"),
        (lambda c: c["annotations"][1]["segmentations"].pop(), "annotation 5: video 17 has 4 fr"),
        (lambda c: c["annotations"][1]["segmentations"].__setitem__(0, "x"), "annotation 5, fr"),
        (
            lambda c: c["annotations"][0]["bboxes"].__setitem__(0, [1]),
            "annotation 31, frame 0: exp",
        ),
        (lambda c: c["videos"][0].pop("height"), "video 20: height is missing"),
        (
            lambda c: c["videos"][0].update(length=3),
            "video 20: its length is 3, but it has 4 files",
        ),
        (lambda c: c["videos"][0].update(id=17), "two videos have the id 17"),
        (lambda c: c["videos"][0].update(width=10**9), "video 20: expected height and width of 1"),
        (
            lambda c: c["annotations"][0].update(areas=[1]),
            "annotation 31: expected areas to be num",
        ),
        (
            lambda c: c["annotations"][0].update(bboxes="x"),
            "annotation 31: expected bboxes to be l",
        ),
        (
            lambda c: c.update(annotations={"a": 1}),
            "expected 'annotations' to be a list of objects",
        ),
        (lambda c: c.update(annotations=[1]), "expected 'annotations' to be a list of objects"),
    ],
)
def test_damaged_files_are_refused_by_name(tmp_path, change, message):
    root, _ = tree(tmp_path, **edited(change))
    with pytest.raises(ValueError, match=f"train.json.*{message}"):
        for video in open_youtube_vis(str(root), "train"):
            video.clip()


def test_frames_of_another_size_than_annotated_are_refused(tmp_path):
    root, _ = tree(tmp_path)
    file = root / "train/JPEGImages/first/00005.jpg"
    cv2.imwrite(str(file), np.zeros((60, 80, 3), np.uint8))
    with pytest.raises(ValueError, match="first: frame 00005 is 60x80.*annotation is for 30x40"):
        open_youtube_vis(str(root), "train")[0].clip()


def prepared(folder, videos, config):
    """Writes records with the features of the builder `youtube_vis`."""
    import tensorflow_datasets as tfds

    features = tfds.features
    tracks = {
        "bboxes": features.Sequence(features.BBoxFeature()),
        "segmentations": features.Video((None, None, None, 1), use_colormap=True),
        "category": features.ClassLabel(names=["cat", "dog"]),
        "is_crowd": np.bool_,
        "areas": features.Sequence(np.float32),
        "frames": features.Sequence(np.int32),
    }
    metadata = {"height": np.int32, "width": np.int32, "num_frames": np.int32}
    tfds.dataset_builders.store_as_tfds_dataset(
        "youtube_vis",
        "1.0.0",
        features.FeaturesDict(
            {
                "video": features.Video((None, None, None, 3)),
                "metadata": {**metadata, "video_name": np.str_},
                "tracks": features.Sequence(tracks),
            }
        ),
        {"train": enumerate(videos)},
        config=config,
        data_dir=folder,
    )


def record(name, masks, length=4):
    """A video whose tracks are annotated in frames 1 and 3; the second has no mask in frame 1."""
    import tensorflow_datasets as tfds

    times = [[1, 3], [3]][: masks.shape[1]]
    box = tfds.features.BBox(ymin=0.25, xmin=0.5, ymax=0.75, xmax=1.0)
    return {
        "video": np.stack([np.full((*SIZE, 3), 10 * t, np.uint8) for t in range(length)]),
        "metadata": {"height": SIZE[0], "width": SIZE[1], "num_frames": length, "video_name": name},
        "tracks": [
            {"bboxes": [box] * len(frames), "category": n, "is_crowd": bool(n), "frames": frames}
            | {"segmentations": masks[frames, n, ..., None].astype(np.uint8)}
            | {"areas": [float(masks[t, n].sum()) for t in frames]}
            for n, frames in enumerate(times)
        ],
    }


@pytest.fixture(scope="module")
def tfds_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    masks = discs(np.random.default_rng(1), 4, 2, SIZE)
    videos = [record("b", masks), record("a", masks[:, :0])]
    prepared(folder, videos, "only_frames_with_labels")
    prepared(folder, videos, "full")
    prepared(folder, [record("c", masks[:, :0])], "480_640_full")
    return str(folder), masks


def test_prepared_records_become_instances(tfds_folder):
    folder, masks = tfds_folder
    first, second = open_tfds_youtube_vis(folder, "train")
    assert (first.name, second.name) == ("a", "b") and len(first.ids) == 0
    clip = pickle.loads(pickle.dumps(second)).clip()
    assert clip.frames[:, 0, 0, 0].tolist() == [0, 10, 20, 30]
    assert clip.classes.tolist() == [1, 2] and clip.categories == ["cat", "dog"]
    assert clip.crowd.tolist() == [False, True] and clip.ids.tolist() == [1, 2]
    assert clip.valid.T.tolist() == [[False, True, False, True], [False, False, False, True]]
    assert (clip.masks[[1, 3], 0] == masks[[1, 3], 0]).all() and not clip.masks[1, 1].any()
    assert clip.boxes[3, 1].tolist() == [20, 7.5, 40, 22.5] and not clip.boxes[1, 1].any()
    assert (decode(second.rles(3), SIZE) == masks[3]).all()


def test_of_all_frames_the_annotated_ones_count(tfds_folder):
    video = open_tfds_youtube_vis(tfds_folder[0], "train", config="full")[1]
    assert video.frame_names == ["00001", "00003"] and video.frame(1)[0, 0, 0] == 30
    assert video.valid.tolist() == [[True, False], [True, True]]


def test_what_is_not_prepared_or_withheld_is_said(tfds_folder, tmp_path):
    folder, _ = tfds_folder
    with pytest.raises(FileNotFoundError, match="tfds build youtube_vis/only_frames_with_labels"):
        open_tfds_youtube_vis(str(tmp_path), "train")
    with pytest.raises(ValueError, match="expected a split 'validation', found .'train'"):
        open_tfds_youtube_vis(folder, "valid")
    with pytest.raises(ValueError, match="split 'train' has no annotations; those of valid"):
        open_tfds_youtube_vis(folder, "train", config="480_640_full")
    assert len(open_tfds_youtube_vis(folder, "train", "480_640_full", truth=False)[0]) == 4
    for options in ({"split": "val"}, {"split": "train", "config": "half"}):
        with pytest.raises(ValueError, match="tfds_youtube_vis: expected"):
            open_tfds_youtube_vis(folder, **options)
