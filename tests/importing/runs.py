"""Calls of the command, and annotations to call it with."""

import json

import numpy as np
import pytest

from tests.data.trees import SIZE
from vos_jax import import_annotations as command
from vos_jax.data.davis import open_davis
from vos_jax.data_checks.layouts import check

FRAMES = 4  # of the fixture `place`


def imported(root, tool, source, frames="frames"):
    """The data set that the command writes, as videos."""
    paths = (f"--source={root / source}", f"--frames={root / frames}", f"--out={root / 'mine'}")
    command.main(["import-annotations", f"--from={tool}", *paths])
    assert not check(root / "mine").problems
    return open_davis(str(root / "mine"), "train")


def refused(root, tool, source, message, frames="frames"):
    with pytest.raises(SystemExit, match=message) as stop:
        imported(root, tool, source, frames)
    assert len(str(stop.value.code).splitlines()) == 1
    assert not (root / "mine").exists()


def corners(inside):
    """The box of a mask as left, top, right, bottom, one beyond the last pixel."""
    rows, columns = np.nonzero(inside)
    return int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1


def rectangle(inside):
    left, top, right, bottom = corners(inside)
    return [left, top, right, top, right, bottom, left, bottom]


def labelme(path, t, shapes, **changes):
    path.parent.mkdir(exist_ok=True)
    content = {"imagePath": f"{t:05d}.jpg", "imageHeight": SIZE[0], "imageWidth": SIZE[1]}
    path.write_text(json.dumps(content | {"shapes": shapes} | changes))


def polygon(label, inside, **changes):
    points = np.reshape(rectangle(inside), (-1, 2)).tolist()
    return {"label": label, "points": points, "shape_type": "polygon", "group_id": None} | changes


def box(t, inside, outside=0, more=""):
    """A shape of CVAT."""
    left, top, right, bottom = corners(inside)
    place = f'xtl="{left}.00" ytl="{top}.00" xbr="{right}.00" ybr="{bottom}.00"'
    return f'<box frame="{t}" keyframe="1" outside="{outside}" occluded="0" {place} {more}/>'


def track(number, label, *shapes):
    """A track of CVAT."""
    return f'<track id="{number}" label="{label}">{"".join(shapes)}</track>'
