"""What holds whatever tool the annotations are of."""

import json
import re
import shutil

import cv2
import pytest
from PIL import Image

from tests.data.trees import SIZE, frame, labels, write_image
from tests.importing.runs import imported, labelme, polygon, rectangle, refused
from vos_jax import import_annotations as command


def test_nothing_is_overwritten_and_no_input_is_an_output(place):
    labelme(place / "labels/00000.json", 0, [polygon("cat", labels(0) == 1)])
    (place / "mine").mkdir()
    (place / "mine/kept").touch()
    with pytest.raises(SystemExit, match="is not empty"):
        imported(place, "labelme", "labels")
    assert [file.name for file in (place / "mine").iterdir()] == ["kept"]
    with pytest.raises(SystemExit, match="--out .* is --frames"):
        command.main(
            ["c", "--from=labelme", f"--source={place}/labels"]
            + [f"--frames={place}/frames", f"--out={place}/frames"]
        )


def test_turned_frames_and_frames_of_several_sizes_are_refused(place):
    shapes = [polygon("cat", labels(0) == 1)]
    for t in (0, 1):
        labelme(place / f"labels/{t:05d}.json", t, shapes, imageHeight=None)
    write_image(place / "frames/00001.jpg", frame(1, (50, 64)))
    refused(place, "labelme", "labels", "the frame 00001 has another size")
    picture, exif = Image.fromarray(frame(1)), Image.Exif()
    exif[0x0112] = 6
    picture.save(place / "frames/00001.jpg", exif=exif)
    refused(place, "labelme", "labels", r"00001\.jpg: turned by its EXIF orientation, 6")


def test_more_objects_than_a_mask_tells_apart_are_refused(place):
    shapes = [polygon(f"cat {n}", labels(0) == 1) for n in range(255)]
    labelme(place / "labels/00000.json", 0, shapes)
    refused(place, "labelme", "labels", "255 objects are drawn, a mask can tell 254 apart")


def test_an_object_that_is_hidden_at_first_gets_a_later_id(place):
    hidden = [polygon("under", labels(0) == 1), polygon("over", labels(0) == 1)]
    labelme(place / "labels/00000.json", 0, hidden)
    labelme(place / "labels/00001.json", 1, hidden[:1])
    video = imported(place, "labelme", "labels")[0]
    assert video.ids.tolist() == [1]  # of the first frame
    assert re.search('"1": "over",\\s*"2": "under"', (place / "mine/objects.json").read_text())


def test_frames_are_found_whatever_their_ending(place):
    cv2.imwrite(str(place / "frames/00000.png"), frame(0)[..., ::-1])
    (place / "frames/00000.jpg").unlink()
    labelme(place / "labels/00000.json", 0, [polygon("cat", labels(0) == 1)])
    assert (imported(place, "labelme", "labels")[0].frame(0) == frame(0)).all()


def test_names_of_frames_may_have_points(tmp_path):
    times = ("a.0.jpg", "a.10.jpg", "a.9.jpg")
    for name in times:
        write_image(tmp_path / "frames" / name, frame(0))
        shape = polygon("cat", labels(0) == 1)
        labelme(tmp_path / f"labels/{name[:-4]}.json", 0, [shape])
    video = imported(tmp_path, "labelme", "labels")[0]
    assert video.frame_names == ["a.0", "a.9", "a.10"]
    shutil.rmtree(tmp_path / "mine")
    size = {"height": SIZE[0], "width": SIZE[1]}
    images = [{"id": n, "file_name": name, **size} for n, name in enumerate(times)]
    outline = [rectangle(labels(0) == 1)]
    entries = [{"id": 1, "image_id": n, "category_id": 1, "segmentation": outline} for n in (0, 1)]
    tables = {"images": images, "annotations": entries, "categories": [{"id": 1, "name": "cat"}]}
    (tmp_path / "a.json").write_text(json.dumps(tables))
    video = imported(tmp_path, "coco", "a.json")[0]
    assert video.frame_names == ["a.0", "a.9", "a.10"]
    assert [bool(video.mask(t).any()) for t in range(3)] == [True, False, True]
