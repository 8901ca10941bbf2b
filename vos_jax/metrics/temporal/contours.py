"""Outlines of a mask as simplified polygons, and points spread evenly along one of them.

This is the geometry behind the temporal stability T of F. Perazzi et al., CVPR 2016. Polygons,
their order, their first vertex and their direction equal those of the released code (polycont,
psimpl), because all of these decide how two outlines are matched later.

An outline runs along the edges between pixels. Its corners are the corners of pixels: corner
(r, c) is the upper left one of pixel (r, c), so a mask [H, W] has (H + 1) x (W + 1) of them,
addressed here by the flat index r * (W + 1) + c. Outside the image everything is background.
"""

from collections.abc import Container
from typing import NamedTuple

import numpy as np

TOLERANCES = 0.05, 1.5  # pixels, applied in turn (official 0.1 and 3, in half pixels)
SPACING = 3  # pixels (official cont_th_up)

_RIGHT, _DOWN, _LEFT, _UP = 1, 2, 4, 8
_OPPOSITE = {_RIGHT: _LEFT, _DOWN: _UP, _LEFT: _RIGHT, _UP: _DOWN}
_JUNCTION = _RIGHT | _DOWN | _LEFT | _UP


class Polygon(NamedTuple):
    """points: int32 [n, 2] (column, row) corners, the first repeated at the end; hole: bool."""

    points: np.ndarray
    hole: bool


def mask_polygons(mask: np.ndarray) -> list[Polygon]:
    """All outlines of a mask [H, W] (non-zero inside), holes included, in the official order.

    Outer outlines run clockwise on the screen, holes the other way round. Where two pixels touch
    only at a corner, the outlines turn there and do not cross. Outlines that simplify to a line
    vanish: 1x1 and 2x2 blobs have no polygon. Raises ValueError when `mask` is not [H, W].
    """
    mask = np.asarray(mask) != 0
    if mask.ndim != 2:
        raise ValueError(f"expected the mask [H, W] of one object, found shape {mask.shape}")
    polygons = []
    for loop in _loops(mask):
        corners = np.array(loop)
        rows, columns = np.divmod(corners, mask.shape[1] + 1)
        # The pixel below and right of a loop's first corner in reading order lies just inside it.
        first = np.argmin(corners)
        hole = not mask[rows[first], columns[first]]
        points = np.stack([columns, rows], axis=1)
        for tolerance in TOLERANCES:
            points = simplify(points, tolerance)
        if len(points) > 3:
            backwards = _is_clockwise(points) == hole
            points = points[::-1] if backwards else points
            polygons.append(Polygon(points.astype(np.int32), hole))
    return polygons


def longest_contour(mask: np.ndarray) -> np.ndarray | None:
    """Points int32 [n, 2] of the polygon with the most vertices, or None without a polygon.

    "Longest" counts listed vertices, not pixels; holes compete too; the last of several counts.
    """
    polygons = mask_polygons(mask)[::-1]
    return max((polygon.points for polygon in polygons), key=len, default=None)


def upsample(points: np.ndarray) -> np.ndarray:
    """Vertices [n, 2] and evenly spaced points between them, at most SPACING pixels apart.

    Returns float32 [m, 2]. Points between two vertices are reached by adding up equal float32
    steps, as the official code does; shape contexts notice the rounding.
    """
    points = np.asarray(points, np.float32)
    steps = np.diff(points, axis=0)
    lengths = np.hypot(*steps.T.astype(np.float64))
    counts = np.maximum(np.ceil(lengths / SPACING), 1).astype(int)
    steps /= counts[:, None].astype(np.float32)
    pieces = []
    for start, step, count in zip(points[:-1], steps, counts, strict=True):
        terms = np.concatenate([start[None], np.tile(step, (count - 1, 1))])
        pieces.append(np.cumsum(terms, axis=0, dtype=np.float32))
    return np.concatenate([*pieces, points[-1:]])


def simplify(points: np.ndarray, tolerance: float) -> np.ndarray:
    """Douglas-Peucker on a polyline int [n, 2] in pixels, as psimpl does it; both ends stay.

    Points nearer than `tolerance` to the last point kept are dropped first. Then the point farthest
    from a segment is kept while it is farther than `tolerance`, the last one among equally far
    ones. On a closed outline the first such point is the one farthest from the start.
    """
    points = points[_spaced_out(points, tolerance)]
    keep = np.zeros(len(points), bool)
    keep[[0, -1]] = True
    segments = [(0, len(points) - 1)]
    while segments:
        first, last = segments.pop()
        if last - first < 2:
            continue
        squared = _squared_distances(points[first + 1 : last], points[first], points[last])
        farthest = last - 1 - int(np.argmax(squared[::-1]))
        if squared[farthest - first - 1] > tolerance**2:
            keep[farthest] = True
            segments += [(first, farthest), (farthest, last)]
    return points[keep]


def _spaced_out(points: np.ndarray, tolerance: float) -> list[int]:
    """Indices of points at least `tolerance` from the last one kept, and of both ends."""
    kept = [0]
    coordinates = points.tolist()
    x, y = coordinates[0]
    for i, (u, v) in enumerate(coordinates[1:], start=1):
        if (u - x) ** 2 + (v - y) ** 2 >= tolerance**2:
            kept.append(i)
            x, y = u, v
    if kept[-1] != len(points) - 1:
        kept.append(len(points) - 1)
    return kept


def _squared_distances(points: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Squared distances float64 [n] of points [n, 2] to the segment from `start` to `end`."""
    v = end - start
    squared_length = v @ v
    along = (points - start) @ v / squared_length if squared_length else np.zeros(len(points))
    # psimpl keeps the fraction in single precision; it decides between nearly equal distances.
    fraction = np.clip(along, 0, 1).astype(np.float32)
    offset = points - (start + v * fraction[:, None].astype(np.float64))
    return (offset**2).sum(axis=1)


def _is_clockwise(points: np.ndarray) -> bool:
    x, y = points.T
    terms = np.diff(y) * (x[1:] + x[:-1])
    # Added up in single precision as in the official code, one by one.
    return bool(np.cumsum(terms, dtype=np.float32)[-1] > 0)


def _loops(mask: np.ndarray) -> list[list[int]]:
    """All closed walks along the edges of a bool mask, as flat corner indices, first = last.

    An edge is an arm of both its corners. A corner has none, two or, between pixels that touch
    diagonally, four arms: a junction. Walks between junctions are joined to loops; a loop without
    one starts at its first corner in reading order and runs down first.
    """
    arms = _arms(mask).ravel()
    width = mask.shape[1] + 1
    steps = {_RIGHT: 1, _DOWN: width, _LEFT: -1, _UP: -width}
    junctions = np.flatnonzero(arms == _JUNCTION).tolist()
    downward = np.flatnonzero(arms & _DOWN).tolist()
    unseen = bytearray(arms)  # arms not walked along yet
    stops = set(junctions)
    pieces = [
        _walk(unseen, steps, corner, arm, stops)
        for corner in reversed(junctions)
        for arm in (_UP, _LEFT, _DOWN, _RIGHT)
        if unseen[corner] & arm
    ]
    plain = [
        _walk(unseen, steps, corner, _DOWN, (corner,))
        for corner in downward
        if unseen[corner] & _DOWN
    ]
    return plain[::-1] + _join(pieces, junctions)


def _arms(mask: np.ndarray) -> np.ndarray:
    """uint8 [H + 1, W + 1]: which of the four edges at a corner separate two different pixels."""
    pixels = np.pad(mask, 1).view(np.uint8)
    upper_left, upper_right = pixels[:-1, :-1], pixels[:-1, 1:]
    lower_left, lower_right = pixels[1:, :-1], pixels[1:, 1:]
    return (
        (upper_right ^ lower_right) * np.uint8(_RIGHT)
        | (lower_left ^ lower_right) * np.uint8(_DOWN)
        | (upper_left ^ lower_left) * np.uint8(_LEFT)
        | (upper_left ^ upper_right) * np.uint8(_UP)
    )


def _walk(
    unseen: bytearray, steps: dict[int, int], corner: int, arm: int, stops: Container[int]
) -> list[int]:
    """Follow edges from `corner` along `arm` to the next stop, erasing them from `unseen`.

    A corner that is no stop has two arms, so the way on is the one arm not seen yet.
    """
    walked = [corner]
    while True:
        unseen[corner] ^= arm
        corner += steps[arm]
        unseen[corner] ^= _OPPOSITE[arm]
        walked.append(corner)
        if corner in stops:
            return walked
        arm = unseen[corner]


def _join(pieces: list[list[int]], junctions: list[int]) -> list[list[int]]:
    """Closed loops made of pieces between junctions (ascending), in the official order.

    Loops turn at every junction they meet, which keeps them from crossing: what is inside a closed
    loop has an even number of piece ends at each junction. A trail that meets itself gives up the
    cycle it has closed as a loop and goes on from there.
    """
    waiting: dict[int, list[int]] = {junction: [] for junction in junctions}
    for i, piece in enumerate(pieces):
        for junction in {piece[0], piece[-1]}:
            waiting[junction].append(i)
    loops = []
    for start in reversed(junctions):
        while waiting[start]:
            trail = [_next_piece(waiting, pieces, start, [])]
            place = {start: 0}  # where in the trail the piece from a junction is
            while trail:
                corner = trail[-1][-1]
                if corner in place:
                    cycle = trail[place[corner] :]
                    del trail[place[corner] :]
                    for piece in cycle:
                        del place[piece[0]]
                    loops.append([corner, *(c for piece in cycle for c in piece[1:])])
                else:
                    place[corner] = len(trail)
                    trail.append(_next_piece(waiting, pieces, corner, trail))
    return loops


def _next_piece(
    waiting: dict[int, list[int]], pieces: list[list[int]], corner: int, trail: list[list[int]]
) -> list[int]:
    """Take the first waiting piece at `corner` that does not go straight on, as a walk from it."""
    for i in waiting[corner]:
        piece = pieces[i] if pieces[i][0] == corner else pieces[i][::-1]
        # Steps along a row are +-1, along a column +-(W + 1).
        if not trail or abs(piece[1] - piece[0]) != abs(trail[-1][-1] - trail[-1][-2]):
            break
    for junction in {piece[0], piece[-1]}:
        waiting[junction].remove(i)
    return piece
