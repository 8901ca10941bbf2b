"""labelme: one json for each frame, named as the frame.

Shapes of one group_id are one object, whatever their labels; without it those of one label are. An
object is the same in all frames of a sequence. Polygons, rectangles, circles and masks have pixels;
points and lines have none and are refused. A folder of folders is one of sequences.
"""

import base64
import binascii
from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath

from vos_jax.data.folders import read_json, subfolders
from vos_jax.data.frames import in_order
from vos_jax.data.image_file import load, open_image
from vos_jax.data.rle import RLE, encode, from_polygons
from vos_jax.importing.drawn import DrawnSequence, Shape, box, ellipse
from vos_jax.importing.frames import FolderFrames

KINDS = ("polygon", "rectangle", "circle", "mask")


def read_labelme(source: epath.Path, frames: epath.Path) -> list[DrawnSequence]:
    """The sequence of a folder of json files, or of each folder in it.

    Raises FileNotFoundError, and ValueError that names the file and the shape.
    """
    if not source.is_dir():
        raise FileNotFoundError(f"{source}: no such folder of labelme's json files")
    if any(source.glob("*.json")):
        return [_sequence(frames.name, source, frames)]
    folders = [folder for folder in subfolders(source) if any(folder.glob("*.json"))]
    if not folders:
        raise FileNotFoundError(f"{source}: holds no json file, nor does a folder in it")
    return [_sequence(folder.name, folder, frames / folder.name) for folder in folders]


def _sequence(name: str, folder: epath.Path, frames: epath.Path) -> DrawnSequence:
    opened = FolderFrames(frames)
    shapes = {}
    for file in in_order(folder.glob("*.json")):
        stem = opened.checked(file.name, str(file))
        content = read_json(file)
        if not isinstance(content, Mapping) or not isinstance(content.get("shapes"), list):
            raise ValueError(f"{file}: expected labelme's object with a list 'shapes'")
        size = content.get("imageHeight"), content.get("imageWidth")
        if None not in size:
            opened.check_size(stem, size, str(file))
        entries = enumerate(content["shapes"], 1)
        shapes[stem] = [_shape(e, opened.size(stem), f"{file}, shape {n}") for n, e in entries]
    return DrawnSequence(name, opened, shapes)


def _shape(entry: Any, size: tuple[int, int], where: str) -> Shape:
    if not isinstance(entry, Mapping) or not isinstance(entry.get("label"), str):
        raise ValueError(f"{where}: expected an object with a label")
    group, label = entry.get("group_id"), entry["label"]
    identity = ("label", label) if group is None else ("group", str(group))
    return Shape(identity, label, _pixels(entry, size, where))


def _pixels(entry: Mapping, size: tuple[int, int], where: str) -> RLE:
    kind = entry.get("shape_type") or KINDS[0]
    if kind not in KINDS:
        raise ValueError(f"{where}: a {kind} has no pixels; expected one of {', '.join(KINDS)}")
    try:
        points = np.array(entry.get("points"), float)
    except (TypeError, ValueError):
        points = np.zeros(0)
    fewest = 3 if kind == "polygon" else 2
    if points.ndim != 2 or points.shape[1:] != (2,) or len(points) < fewest:
        raise ValueError(f"{where}: expected points [x, y] of a {kind}, at least {fewest}")
    if not np.isfinite(points).all():
        raise ValueError(f"{where}: expected numbers as points")
    if kind == "mask":
        return _mask(entry.get("mask"), points, size, where)
    if kind == "rectangle":
        polygons = box(*points.min(0).tolist(), *points.max(0).tolist())
    elif kind == "circle":
        radius = float(np.hypot(*(points[1] - points[0])))
        polygons = ellipse(*points[0].tolist(), radius, radius)
    else:
        polygons = [points.ravel().tolist()]
    return from_polygons(polygons, size, where)


def _mask(text: Any, points: np.ndarray, size: tuple[int, int], where: str) -> RLE:
    """A PNG in base64 that fills the box of the points."""
    try:
        data = base64.b64decode(text, validate=True)
    except (TypeError, ValueError, binascii.Error):
        raise ValueError(f"{where}: expected the mask as a PNG in base64") from None
    image = load(open_image(data, where), where)
    inside = np.asarray(image.convert("L")) > 0
    left, top = np.rint(points.min(0)).astype(int).tolist()
    height, width = inside.shape
    if left < 0 or top < 0 or top + height > size[0] or left + width > size[1]:
        raise ValueError(
            f"{where}: a mask of {height}x{width} at row {top}, column {left} does not fit into its"
            f" frame of {size[0]}x{size[1]} (height x width)"
        )
    whole = np.zeros((1, *size), bool)
    whole[0, top : top + height, left : left + width] = inside
    return encode(whole)[0]
