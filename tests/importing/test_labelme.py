"""labelme's json files as a data set."""

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image

from tests.data.trees import SIZE, frame, labels, write_image
from tests.importing.runs import corners, imported, labelme, polygon, refused


def test_labelme_objects_are_told_by_group_or_label_in_every_frame(place, capsys):
    for t in (0, 1, 3):
        shapes = [polygon("cat", labels(t) == 1), polygon("dog", labels(t) == 2, group_id=5)]
        labelme(place / f"labels/{t:05d}.json", t, shapes[:: -1 if t == 1 else 1])
    video = imported(place, "labelme", "labels")[0]
    assert video.name == "frames" and video.frame_names == ["00000", "00001", "00003"]
    for t, stem in enumerate((0, 1, 3)):
        np.testing.assert_array_equal(video.mask(t), labels(stem))
        data = (place / f"frames/{stem:05d}.jpg").read_bytes()
        assert (place / f"mine/JPEGImages/480p/frames/{stem:05d}.jpg").read_bytes() == data
    names = json.loads((place / "mine/objects.json").read_text())
    assert names == {"frames": {"1": "cat", "2": "dog"}}
    shown = capsys.readouterr()
    assert "frames: 1 of 4 frames are left out: not annotated" in shown.err
    assert shown.out.endswith("mine: 1 sequences, 3 frames, 2 objects\n")


def png_of(inside):
    buffer = io.BytesIO()
    Image.fromarray(inside).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def test_labelme_rectangles_circles_and_masks_have_their_pixels(place):
    left, top, right, bottom = corners(labels(0) == 1)
    part = np.ones((3, 4), bool)
    part[0, 0] = False
    shapes = [
        {"label": "a", "shape_type": "rectangle", "points": [[right, bottom], [left, top]]},
        {"label": "b", "shape_type": "circle", "points": [[45, 20], [45, 28]]},
        {"label": "c", "shape_type": "mask", "points": [[40, 40], [43, 42]], "mask": png_of(part)},
    ]
    labelme(place / "labels/00000.json", 0, shapes)
    mask = imported(place, "labelme", "labels")[0].mask(0)
    assert ((mask == 1) == (labels(0) == 1)).all()
    rows, columns = np.indices(SIZE)
    distance = np.hypot(rows - 20, columns - 45)
    assert (mask[distance < 7] == 2).all() and not (mask[distance > 9] == 2).any()
    assert ((mask == 3)[40:43, 40:44] == part).all() and (mask == 3).sum() == part.sum()


def test_labelme_folders_are_sequences(tmp_path):
    for name in ("a", "b"):
        write_image(tmp_path / f"frames/{name}/00000.jpg", frame(0))
        (tmp_path / "labels").mkdir(exist_ok=True)
        labelme(tmp_path / f"labels/{name}/00000.json", 0, [polygon("cat", labels(0) == 1)])
    assert [video.name for video in imported(tmp_path, "labelme", "labels")] == ["a", "b"]


LABELME = {
    "no pixels": ({"shape_type": "linestrip"}, "shape 1: a linestrip has no pixels; expected one"),
    "few points": ({"points": [[1, 2], [3, 4]]}, r"shape 1: expected points .* at least 3"),
    "no number": ({"points": [[1, 2], [3, 4], [5, "x"]]}, "shape 1: expected points"),
    "no label": ({"label": None}, "shape 1: expected an object with a label"),
    "no mask": ({"shape_type": "mask", "mask": "&"}, "shape 1: expected the mask as a PNG"),
    "mask of nothing": ({"shape_type": "mask", "mask": "aaaa"}, "shape 1: cannot be read as an im"),
    "far mask": (
        {"shape_type": "mask", "mask": png_of(np.ones(SIZE, bool))},
        "shape 1: a mask of 48x64 at row .* does not fit",
    ),
}


@pytest.mark.parametrize("fault", LABELME)
def test_labelme_shapes_of_another_form_are_refused_by_their_number(place, fault):
    change, message = LABELME[fault]
    shape = polygon("cat", labels(0) == 1) | change
    labelme(place / "labels/00000.json", 0, [shape])
    refused(place, "labelme", "labels", message)


def test_labelme_files_of_other_frames_are_refused(place):
    shapes = [polygon("cat", labels(0) == 1)]
    labelme(place / "labels/00000.json", 0, shapes, imageWidth=99)
    refused(place, "labelme", "labels", "annotated at 48x99 .*, the frame 00000 .* is 48x64")
    labelme(place / "labels/00000.json", 0, shapes)
    labelme(place / "labels/00009.json", 9, shapes)
    refused(place, "labelme", "labels", "00009.json: there is no frame '00009'")
    (place / "labels/00009.json").write_text("[]")
    refused(place, "labelme", "labels", "there is no frame '00009'|expected labelme's object")
    refused(place, "labelme", "nowhere", "no such folder of labelme's")
    (place / "empty").mkdir()
    refused(place, "labelme", "empty", "holds no json file")
