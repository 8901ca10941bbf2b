"""Sequences of frames in which shapes are drawn, and the label maps they become.

A shape is a mask with the identity of its object, which is the same in every frame. Shapes of a
frame are painted in their order, later ones over earlier ones. Objects are numbered 1, 2, ... in
the order in which they are first visible, so those of the first frame are 1 to K, as DAVIS has it.
"""

import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from vos_jax.data.clip import VOID, object_ids
from vos_jax.data.rle import RLE, decode
from vos_jax.importing.frames import Frames

MAX_OBJECTS = VOID - 1
CORNERS = 64  # of an ellipse


class Shape(NamedTuple):
    """identity: of the object through its sequence, None: void (a crowd). name: of its category.
    rle: its pixels.
    """

    identity: Hashable
    name: str
    rle: RLE


@dataclass(frozen=True)
class DrawnSequence:
    """A video with shapes.

    name: of its folder. frames: where its frames are. shapes: of each annotated frame by stem, in
    time order, each list in the order of painting; an empty one is a frame without objects.
    """

    name: str
    frames: Frames
    shapes: Mapping[str, Sequence[Shape]]

    def names(self) -> dict[Hashable, str]:
        """The category of each object, in the order in which they are first drawn."""
        found: dict[Hashable, str] = {}
        for shapes in self.shapes.values():
            for shape in shapes:
                if shape.identity is not None:
                    found.setdefault(shape.identity, shape.name)
        return found

    def painted(self) -> Iterator[tuple[str, np.ndarray]]:
        """Stem and label map uint8 [H, W] of each frame, ids in the order of `names`.

        Raises ValueError for more objects than a label map can tell apart.
        """
        names = self.names()
        if len(names) > MAX_OBJECTS:
            raise ValueError(
                f"sequence {self.name}: {len(names)} objects are drawn, a mask can tell"
                f" {MAX_OBJECTS} apart; do the annotations keep one track id for each object?"
            )
        ids = {None: VOID, **{identity: n for n, identity in enumerate(names, 1)}}
        for stem, shapes in self.shapes.items():
            labels = np.zeros(self.frames.size(stem), np.uint8)
            for shape in shapes:
                labels[decode([shape.rle], labels.shape)[0]] = ids[shape.identity]
            yield stem, labels


class Numbered(NamedTuple):
    """stems: the frames from the first one with an object on. ids: what the id of each value of
    `DrawnSequence.painted` becomes, uint8 [256]. names: of the objects by their new ids.
    """

    stems: list[str]
    ids: np.ndarray
    names: dict[int, str]


def numbered(sequence: DrawnSequence) -> Numbered:
    """The numbers of the visible objects.

    Raises ValueError where none is visible in any frame, or frames differ in size.
    """
    order: dict[int, int] = {}
    stems: list[str] = []
    for stem, labels in sequence.painted():
        if labels.shape != sequence.frames.size(next(iter(sequence.shapes))):
            raise ValueError(
                f"{sequence.frames.path}: the frame {stem} has another size than those before;"
                " resize the frames to one size and annotate those"
            )
        for value in object_ids(labels):
            order.setdefault(value, len(order) + 1)
        if order:
            stems.append(stem)
    if not order:
        raise ValueError(
            f"sequence {sequence.name}: no object is visible in any of {len(sequence.shapes)}"
            " annotated frames; leave the sequence out"
        )
    ids = np.zeros(256, np.uint8)
    ids[list(order)], ids[VOID] = list(order.values()), VOID
    names = list(sequence.names().values())
    return Numbered(stems, ids, {new: names[old - 1] for old, new in order.items()})


def box(
    left: float, top: float, right: float, bottom: float, degrees: float = 0
) -> list[list[float]]:
    """A box as polygons, turned about its centre."""
    corners = [(left, top), (right, top), (right, bottom), (left, bottom)]
    return [_turned(corners, ((left + right) / 2, (top + bottom) / 2), degrees)]


def ellipse(x: float, y: float, rx: float, ry: float, degrees: float = 0) -> list[list[float]]:
    """An ellipse as polygons, turned about its centre."""
    angles = (2 * math.pi * k / CORNERS for k in range(CORNERS))
    points = [(x + rx * math.cos(a), y + ry * math.sin(a)) for a in angles]
    return [_turned(points, (x, y), degrees)]


def _turned(
    points: Sequence[tuple[float, float]], centre: tuple[float, float], degrees: float
) -> list[float]:
    """x1, y1, x2, y2, ..., clockwise as images show it."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    (a, b), out = centre, []
    for x, y in points:
        out += [a + cos * (x - a) - sin * (y - b), b + sin * (x - a) + cos * (y - b)]
    return out
