"""CVAT for video 1.1: annotations.xml with tracks.

A track is an object. Its shapes name their frames; each holds until the track's next one, so that
files with keyframes alone are steps, not interpolated (CVAT itself writes a shape for every frame
between keyframes). outside="1" ends a shape. Shapes are painted by z_order, those of one z_order as
the file has them. Boxes, polygons, ellipses and masks have pixels; lines, points, cuboids and
skeletons are refused.
"""

import xml.etree.ElementTree as ET
from collections.abc import Mapping

import numpy as np
from etils import epath

from vos_jax.data.rle import RLE, encode, from_polygons
from vos_jax.importing.drawn import DrawnSequence, Shape, box, ellipse
from vos_jax.importing.frames import Frames, open_sequence
from vos_jax.notes import note

KINDS = ("box", "polygon", "ellipse", "mask")
OTHERS = ("polyline", "points", "cuboid", "skeleton")


def read_cvat(source: epath.Path, frames: epath.Path) -> list[DrawnSequence]:
    """The one sequence of an annotations.xml; raises ValueError that names the file."""
    if not source.is_file():
        raise FileNotFoundError(f"{source}: no such file; CVAT's export holds an annotations.xml")
    root = parse_xml(source)
    tracks = root.findall("track")
    if not tracks:
        other = "images, not videos" if root.find("image") is not None else "no track"
        raise ValueError(f"{source}: holds {other}; export the task as 'CVAT for video 1.1'")
    opened = open_sequence(frames)
    _check_size(root, opened, str(source))
    drawn: list[list[tuple[int, Shape]]] = [[] for _ in opened.stems]
    held = 0
    for track in tracks:
        where = f"{source}, track {track.get('id')}"
        held += _draw(track, opened, drawn, where)
    if held:
        note(f"{source}: {held} shapes between keyframes are those of the keyframe before")
    ordered = ([s for _, s in sorted(shapes, key=lambda x: x[0])] for shapes in drawn)
    name = frames.stem if frames.is_file() else frames.name
    return [DrawnSequence(name, opened, dict(zip(opened.stems, ordered, strict=True)))]


def parse_xml(path: epath.Path) -> ET.Element:
    """The root of a file; ValueError for what is none, or declares entities, which may explode."""

    class Plain(ET.TreeBuilder):
        def doctype(self, *_) -> None:
            raise ValueError(f"{path}: has a DOCTYPE, which annotations need not; remove it")

    try:
        return ET.fromstring(path.read_bytes(), ET.XMLParser(target=Plain()))
    except (ET.ParseError, LookupError) as error:  # the second: an unknown encoding
        raise ValueError(f"{path}: not a readable XML file: {error}; is it cut off?") from None


def _draw(
    track: ET.Element, frames: Frames, drawn: list[list[tuple[int, Shape]]], where: str
) -> int:
    """Adds (z, shape) of a track to its frames; how many of them no shape names."""
    wrong = [child.tag for child in track if child.tag in OTHERS]
    if wrong:
        raise ValueError(
            f"{where}: a {wrong[0]} has no pixels; expected {', '.join(KINDS)}: delete the track"
        )
    shapes = {}
    for child in track:
        if child.tag in KINDS:
            shapes[_number(child.attrib, "frame", where)] = child
    beyond = [t for t in shapes if not 0 <= t < len(drawn)]
    if beyond:
        raise ValueError(
            f"{where}: names frame {beyond[0]}, {frames.path} holds 0 to {len(drawn) - 1}; give"
            " all frames of the video that was annotated, or the video itself"
        )
    held, times = 0, sorted(shapes)
    for t, end in zip(times, [*times[1:], len(drawn)], strict=True):
        child = shapes[t]
        if child.get("outside") == "1":
            continue
        name = f"{where}, frame {t}"
        rle = _pixels(child, frames.size(frames.stems[t]), name)
        shape = Shape(f"track {track.get('id')}", track.get("label") or "", rle)
        z = _number(child.attrib, "z_order", name) if "z_order" in child.attrib else 0
        for covered in range(t, end):
            drawn[covered].append((z, shape))
        held += end - t - 1
    return held


def _pixels(child: ET.Element, size: tuple[int, int], where: str) -> RLE:
    if child.tag == "mask":
        return _mask(child.attrib, size, where)
    degrees = _real(child.attrib, "rotation", where) if "rotation" in child.attrib else 0
    if child.tag == "box":
        corners = [_real(child.attrib, key, where) for key in ("xtl", "ytl", "xbr", "ybr")]
        polygons = box(*corners, degrees)
    elif child.tag == "ellipse":
        facts = [_real(child.attrib, key, where) for key in ("cx", "cy", "rx", "ry")]
        polygons = ellipse(*facts, degrees)
    else:
        try:
            pairs = [point.split(",") for point in child.get("points", "").split(";")]
            polygons = [[float(x) for x, y in pairs for x in (x, y)]]
        except ValueError:
            raise ValueError(f"{where}: expected points as x1,y1;x2,y2;...") from None
    return from_polygons(polygons, size, where)


def _mask(facts: Mapping[str, str], size: tuple[int, int], where: str) -> RLE:
    """Runs of 0 and 1 by turns along the rows of a box."""
    place = [_number(facts, key, where) for key in ("left", "top", "width", "height")]
    left, top, width, height = place
    try:
        runs = np.array(facts.get("rle", "").split(","), np.int64)
    except (ValueError, OverflowError):
        runs = np.full(1, -1)
    fits = min(place) >= 0 and top + height <= size[0] and left + width <= size[1]
    sane = runs.min() >= 0 and runs.max() <= width * height  # so that their sum does not wrap
    if not (fits and sane and int(runs.sum()) == width * height):
        raise ValueError(
            f"{where}: expected rle, runs of 0 and 1 that fill a box of {height}x{width} at row"
            f" {top}, column {left} inside the frame of {size[0]}x{size[1]} (height x width)"
        )
    values = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    whole = np.zeros((1, *size), bool)
    whole[0, top : top + height, left : left + width] = values.reshape(height, width)
    return encode(whole)[0]


def _check_size(root: ET.Element, frames: Frames, where: str) -> None:
    width, height = (root.findtext(f".//original_size/{key}") for key in ("width", "height"))
    if width is not None and height is not None:
        facts = {"width": width, "height": height}
        size = _number(facts, "height", where), _number(facts, "width", where)
        frames.check_size(frames.stems[0], size, where)


def _number(facts: Mapping[str, str], key: str, where: str) -> int:
    try:
        return int(facts[key])
    except (KeyError, ValueError):
        raise ValueError(f"{where}: expected a whole number as {key}") from None


def _real(facts: Mapping[str, str], key: str, where: str) -> float:
    try:
        return float(facts[key])
    except (KeyError, ValueError):
        raise ValueError(f"{where}: expected a number as {key}") from None
