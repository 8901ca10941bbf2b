"""COCO's json and lines of polygons: images with instances as videos of one frame."""

import json

import cv2
import numpy as np
import pytest

from vos_jax.data.coco import open_coco
from vos_jax.data.polygons import COCO_CLASSES, open_polygons

SQUARE = [1, 1, 5, 1, 5, 4, 1, 4]
CROWD = {"size": [6, 9], "counts": [0, 6, 48]}


def image(path, height=6, width=9):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((height, width, 3), 90, np.uint8))


def coco(root, **changes):
    """Two images; the first has a polygon of category 7 and a crowd of category 3."""
    image(root / "val/a.jpg")
    image(root / "val/b.jpg")
    facts = {"image_id": 12, "iscrowd": 0, "area": 12.0}
    content = {
        "images": [
            {"id": 40, "file_name": "b.jpg", "height": 6, "width": 9},
            {"id": 12, "file_name": "a.jpg", "height": 6, "width": 9},
        ],
        "categories": [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}],
        "annotations": [
            {**facts, "id": 900100448263, "category_id": 7, "bbox": [1, 1, 4, 3]}
            | {"segmentation": [SQUARE]},
            {**facts, "id": 2, "category_id": 3, "bbox": [0, 0, 1, 6]}
            | {"segmentation": CROWD, "iscrowd": 1},
        ],
    } | changes
    (root / "annotations").mkdir(exist_ok=True)
    (root / "annotations/instances_val.json").write_text(json.dumps(content))
    return root


def polygons(root, lines="1 0.1 0.1 0.5 0.1 0.5 0.8\n0 0 0 1 0 1 1 0 1\n", **files):
    image(root / "images/a.png")
    image(root / "images/b.png")
    (root / "labels").mkdir(exist_ok=True)
    for name, text in {"labels/a.txt": lines, **files}.items():
        (root / name).write_text(text)
    return root


def test_coco_images_in_the_order_of_their_ids(tmp_path):
    first, second = open_coco(str(coco(tmp_path)), "val")
    clip = first.clip()
    assert (first.name, first.video_id, first.category_ids) == ("a", 12, [3, 7])
    assert clip.categories == ["cat", "dog"] and clip.classes.tolist() == [2, 1]
    assert clip.boxes.tolist() == [[[1, 1, 5, 4], [0, 0, 1, 6]]]
    assert clip.crowd.tolist() == [False, True] and clip.valid.all()
    assert clip.masks[0].sum((1, 2)).tolist() == [12, 6]
    assert second.clip().masks.shape == (1, 0, 6, 9) and second.clip().boxes.shape == (1, 0, 4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"annotations": None}, "expected a list 'annotations'"),
        ({"categories": []}, "expected categories of different ids and names, found 0"),
        ({"images": [{"id": 12, "file_name": "a.jpg", "height": 6}]}, "image 12: width is missing"),
        ({"images": []}, "annotations of images that the file does not list: 12"),
        (
            {"images": [{"id": None}]},
            "images: expected id to be a whole number, found None",
        ),
        ({"images": [{"id": 1}, {"id": 1}]}, "two images have the id 1"),
        (
            {"images": [{"id": 12, "file_name": "a.jpg", "height": [], "width": 9}]},
            r"image 12: expected height to be a whole number, found \[\]",
        ),
        ({"categories": [{"id": 3, "name": "cat"}]}, "category_id is 7, the file lists 3"),
    ],
)
def test_coco_files_of_another_form_are_refused(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        open_coco(str(coco(tmp_path, **changes)), "val")


def test_coco_folders_and_files_that_are_not_there_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="instances_train.json: no such annotation file"):
        open_coco(str(coco(tmp_path)), "train", images="val")
    with pytest.raises(FileNotFoundError, match="train: no such folder; COCO has"):
        open_coco(str(tmp_path), "train")


def test_a_line_is_an_instance_with_its_class_box_and_filled_polygon(tmp_path):
    first, second = open_polygons(str(polygons(tmp_path)))
    clip = first.clip()
    assert clip.classes.tolist() == [2, 1] and clip.categories == list(COCO_CLASSES)
    np.testing.assert_allclose(clip.boxes[0], [[0.9, 0.6, 4.5, 4.8], [0, 0, 9, 6]], rtol=1e-6)
    assert clip.masks[0, 1].all() and 0 < clip.masks[0, 0].sum() < 16
    assert second.clip().masks.shape == (1, 0, 6, 9)  # no text: no instance
    assert len(COCO_CLASSES) == 80 == len(set(COCO_CLASSES))


def test_a_polygon_without_a_pixel_is_not_valid_and_classes_may_be_named(tmp_path):
    root = polygons(tmp_path, "0 .5 .5 .501 .5 .501 .501", **{"classes.txt": "leaf\n"})
    clip = open_polygons(str(root))[0].clip()
    assert clip.categories == ["leaf"] and not clip.valid.any()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0 .1 .1 .5 .5", "a class and four numbers are a box"),
        ("0 .1 .1 .5 .5 .3", "found 5 coordinates"),
        ("80 0 0 1 0 1 1", r"class 80 is outside 0\.\.79"),
        ("0 0 0 40 0 40 30", r"in 0\.\.1, found 0\.\.40"),
        ("0 0 0 1 0 1 nan", r"in 0\.\.1"),
        ("dog 0 0 1 0 1 1", "expected numbers"),
    ],
)
def test_lines_of_another_form_are_refused_with_their_number(tmp_path, line, message):
    video = open_polygons(str(polygons(tmp_path, f"0 0 0 1 0 1 1\n{line}")))[0]
    with pytest.raises(ValueError, match=f"labels/a.txt, line 2: .*{message}"):
        video.clip()


def test_labels_without_an_image_are_refused(tmp_path):
    with pytest.raises(ValueError, match="labels without an image in .*images: c"):
        open_polygons(str(polygons(tmp_path, **{"labels/c.txt": ""})))
