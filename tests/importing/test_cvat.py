"""CVAT's tracks as a data set."""

import numpy as np
import pytest

from tests.data.trees import SIZE, frame, labels, write_video
from tests.importing.runs import FRAMES, box, imported, rectangle, refused, track


def cvat(path, tracks, head="", size=SIZE):
    size = f"<original_size><width>{size[1]}</width><height>{size[0]}</height></original_size>"
    meta = f"<meta><task>{size}</task></meta>"
    path.write_text(f"{head}<annotations><version>1.1</version>{meta}{tracks}</annotations>")


def test_cvat_shapes_hold_until_the_next_and_end_where_they_are_outside(place, capsys):
    first, second = labels(0) == 1, labels(0) == 2
    points = ";".join(f"{x}.00,{y}.00" for x, y in np.reshape(rectangle(labels(2) == 2), (-1, 2)))
    outline = f'<polygon frame="2" keyframe="1" outside="0" occluded="0" points="{points}"/>'
    tracks = track(0, "cat", box(0, first), box(2, labels(2) == 1, outside=1))
    cvat(place / "a.xml", tracks + track(1, "dog", box(0, second), outline))
    video = imported(place, "cvat", "a.xml")[0]
    for t, expected in enumerate((labels(0), labels(0), labels(2), labels(2))):
        kept = expected if t < 2 else np.where(expected == 1, 0, expected)
        np.testing.assert_array_equal(video.mask(t), kept)
    assert "3 shapes between keyframes are those of the keyframe before" in capsys.readouterr().err


def test_cvat_masks_are_runs_along_rows_and_z_order_decides_what_lies_above(place):
    inside = np.array([[0, 1, 1, 0], [1, 1, 0, 0]])
    mask = (
        '<mask frame="0" keyframe="1" outside="0" rle="1, 2, 1, 2, 2" left="5" top="6" width="4"'
        ' height="2" z_order="1"/>'
    )
    whole = box(0, np.ones(SIZE, bool), more='z_order="0"')
    ellipse = '<ellipse frame="0" outside="0" cx="40" cy="24" rx="10" ry="5" rotation="90"/>'
    text = track(4, "a", mask) + track(5, "b", whole) + track(6, "c", ellipse)
    cvat(place / "a.xml", text)
    found = imported(place, "cvat", "a.xml")[0].mask(0)  # painted and numbered: b, c, a
    assert ((found[6:8, 5:9] == 3) == inside).all() and found[0, 0] == 1
    assert (found == 2)[16:32, 38:42].all() and not (found == 2)[:, 30:34].any()


def test_cvat_frames_may_come_from_a_video(tmp_path):
    write_video(tmp_path / "clip.avi", FRAMES)
    cvat(tmp_path / "a.xml", track(0, "cat", box(1, labels(1) == 1)))
    video = imported(tmp_path, "cvat", "a.xml", "clip.avi")[0]
    assert (video.name, video.frame_names) == ("clip", ["00001", "00002", "00003"])
    assert np.abs(video.frame(0).astype(int) - frame(1)).mean() < 6  # compressed twice


ENTITIES = '<!DOCTYPE a [<!ENTITY b "x"><!ENTITY c "&b;&b;&b;">]>'
CVAT = {
    "entities": (ENTITIES + "<annotations>&c;</annotations>", "has a DOCTYPE"),
    "a cut file": ("<annotations><track", "not a readable XML file"),
    "images": ('<annotations><image id="0"/></annotations>', "images, not videos; export the task"),
    "no track": ("<annotations/>", "holds no track"),
    "lines": (track(7, "a", '<polyline frame="0"/>'), "track 7: a polyline has no pixels"),
    "a far frame": (track(7, "a", box(4, labels(0) == 1)), "track 7: names frame 4, .* 0 to 3"),
    "no frame": (track(7, "a", "<box/>"), "track 7: expected a whole number as frame"),
    "no corner": (track(7, "a", '<box frame="0" xtl="x"/>'), "frame 0: expected a number as xtl"),
    "no points": (track(7, "a", '<polygon frame="0" points="1;2"/>'), "frame 0: expected points"),
    "not a number": (
        track(7, "a", '<box frame="0" xtl="nan" ytl="0" xbr="1" ybr="1"/>'),
        "frame 0: expected polygons",
    ),
    "runs that do not fill": (
        track(7, "a", '<mask frame="0" rle="1,2" left="0" top="0" width="2" height="2"/>'),
        "frame 0: expected rle, runs of 0 and 1 that fill a box of 2x2",
    ),
    "runs that wrap": (
        track(
            7,
            "a",
            f'<mask frame="0" rle="{2**63 - 1},{2**63 - 1},6" left="0" top="0" width="2"'
            ' height="2"/>',
        ),
        "frame 0: expected rle",
    ),
}


@pytest.mark.parametrize("fault", CVAT)
def test_cvat_files_of_another_form_are_refused_by_name(place, fault):
    text, message = CVAT[fault]
    if text.startswith("<track"):
        cvat(place / "a.xml", text)
    else:
        (place / "a.xml").write_text(text)
    refused(place, "cvat", "a.xml", f"a.xml.*{message}")


def test_cvat_of_another_video_is_refused_by_its_size(place):
    cvat(place / "a.xml", track(0, "a", box(0, labels(0) == 1)), size=(480, 854))
    refused(place, "cvat", "a.xml", "annotated at 480x854")
