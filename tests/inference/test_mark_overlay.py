"""Overlays of instances: masks that overlap, boxes, and texts that stay in the picture."""

import numpy as np
from PIL import Image

from tests.inference.linking.moving import disc, found_of
from vos_jax.data.masks import davis_palette
from vos_jax.inference.linking.base import DROPPED, Linked
from vos_jax.inference.overlay import OverlayWriter, mark_overlay, marks_of
from vos_jax.inference.writers import FrameResult, Mark

FRAME = np.full((80, 120, 3), 100, np.uint8)


def mark(number, centre, radius=12, text=""):
    y, x = centre
    box = np.array([x - radius, y - radius, x + radius + 1, y + radius + 1], np.float32)
    return Mark(number, disc(centre, radius), box, text)


def mixed(number, below=100):
    return np.rint(0.5 * below + 0.5 * davis_palette()[1 + number]).astype(int)


def test_masks_are_mixed_in_the_first_on_top_and_outlined_with_a_box():
    painted = mark_overlay(FRAME, [mark(0, (40, 40)), mark(1, (40, 56))]).astype(int)
    assert (painted[40, 32] == mixed(0)).all() and (painted[40, 64] == mixed(1)).all()
    assert np.abs(painted[40, 47] - mixed(0, below=mixed(1))).max() <= 1
    colours = davis_palette()[1:3]
    assert (painted[40, 28] == colours[0]).all() and (painted[40, 68] == colours[1]).all()
    assert (painted[28, 28] == colours[0]).all() and (painted[52, 68] == colours[1]).all()
    assert (painted[5, 5] == 100).all() and (FRAME == 100).all()


def test_identities_keep_their_colour_and_none_is_that_of_void():
    for number in (0, 5, 253, 254, 700):
        painted = mark_overlay(FRAME, [mark(number, (40, 40))])
        assert (painted[40, 28] == davis_palette()[1 + number % 254]).all()
    assert 1 + 253 % 254 == 254


def test_texts_stay_in_the_picture_at_every_border():
    for centre in ((6, 6), (6, 114), (74, 6), (74, 114)):
        plain = mark_overlay(FRAME, [mark(3, centre)])
        written = mark_overlay(FRAME, [mark(3, centre, text="3 dog 0.9")])
        changed = (written != plain).any(-1)
        assert changed.sum() > 150
        rows, columns = np.nonzero(changed)
        assert np.ptp(rows) > 6 and np.ptp(columns) > 30  # the whole ground, not a part of it


def test_linked_detections_become_marks_without_the_dropped_ones():
    found = found_of([disc((40, 30), 8), disc((40, 80), 8)], [2, 1])
    (only,) = marks_of(Linked(found, np.array([7, DROPPED])), ["cat", "dog"])
    assert only.id == 7 and only.text == "7 dog 0.90" and (only.mask == disc((40, 30), 8)).all()
    assert only.box.tolist() == found.boxes[0].tolist()


def test_the_writer_draws_marks_where_there_are_some(tmp_path):
    marks = [mark(0, (40, 40), text="0 cat")]
    labels = np.zeros(FRAME.shape[:2], np.uint8)
    with OverlayWriter(tmp_path / "out", fps=6) as writer:
        writer.write(FrameResult("a", FRAME, labels, marks=marks))
        writer.write(FrameResult("b", FRAME, labels))
    assert (np.asarray(Image.open(tmp_path / "out/a.png")) == mark_overlay(FRAME, marks)).all()
    assert (np.asarray(Image.open(tmp_path / "out/b.png")) == FRAME).all()
