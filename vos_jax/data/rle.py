"""Masks as run lengths, the form of COCO and YouTube-VIS files: an RLE.

An RLE is {"size": [H, W], "counts": text}: the lengths of the runs of 0 and 1 by turns, down the
columns, the first one of 0 and maybe empty, in the compressed text of pycocotools. It goes into
json as it is. pycocotools does the work, and trusts what it is given (a text that is cut off is
read past its end): what comes from a file goes through `from_segmentation`, which checks it.
"""

from collections.abc import Sequence
from typing import Any, TypedDict

import numpy as np
from pycocotools import mask as coco

_CODE = 48  # of the character for 0
_MORE = 32  # this bit of a character says that its number goes on
_LONGEST = 6  # characters of a run, 5 bits each: enough for any image
_VALID = bytes(range(_CODE, _CODE + 64))


class RLE(TypedDict):
    """size: [H, W]. counts: the compressed run lengths."""

    size: list[int]
    counts: str


def encode(masks: np.ndarray) -> list[RLE]:
    """Masks bool [N, H, W] as N RLEs."""
    stacked = np.asfortranarray(np.moveaxis(np.asarray(masks, np.uint8), 0, -1))
    return [_text(rle) for rle in coco.encode(stacked)]


def decode(rles: Sequence[RLE | None], size: tuple[int, int]) -> np.ndarray:
    """bool [N, H, W], size = (H, W): the masks of N RLEs of that size; all False for None."""
    masks = np.zeros((len(rles), *size), bool)
    there = [n for n, rle in enumerate(rles) if rle is not None]
    if there:
        masks[there] = np.moveaxis(coco.decode([rles[n] for n in there]), -1, 0)
    return masks


def areas(rles: Sequence[RLE | None]) -> np.ndarray:
    """Pixels of each mask, int64 [N]; 0 for None."""
    found = np.zeros(len(rles), np.int64)
    there = [n for n, rle in enumerate(rles) if rle is not None]
    if there:
        found[there] = coco.area([rles[n] for n in there])
    return found


def boxes(rles: Sequence[RLE | None]) -> np.ndarray:
    """The smallest boxes around the masks, float32 [N, 4] corners x1 y1 x2 y2; 0 where empty.

    A mask of one pixel in column x and row y has the box x, y, x + 1, y + 1.
    """
    found = np.zeros((len(rles), 4), np.float32)
    there = np.flatnonzero(areas(rles))
    if len(there):
        left, top, width, height = coco.toBbox([rles[n] for n in there]).T
        found[there] = np.stack([left, top, left + width, top + height], axis=1)
    return found


def from_segmentation(segmentation: Any, size: tuple[int, int], where: str) -> RLE | None:
    """The RLE of what an annotation file gives for one mask; size = (H, W) of its image.

    A list of polygons [x1, y1, x2, y2, ...] in pixels, run lengths as numbers or as compressed
    text, or None (the object is absent). Raises ValueError that begins with `where`.
    """
    if segmentation is None:
        return None
    if isinstance(segmentation, list):
        return from_polygons(segmentation, size, where)
    if not isinstance(segmentation, dict) or not {"size", "counts"} <= set(segmentation):
        raise ValueError(
            f"{where}: expected null, polygons or run lengths with size and counts, found"
            f" {_short(segmentation)}"
        )
    if list(segmentation["size"]) != list(size):
        raise ValueError(
            f"{where}: the mask is of size {_short(segmentation['size'])} (height, width), its"
            f" frame {list(size)}; encode masks at the size of the frames"
        )
    counts = segmentation["counts"]
    if isinstance(counts, list):
        _check_runs(_numbers(counts, where), size, where)
        return _text(coco.frPyObjects({"size": list(size), "counts": counts}, *size))
    if isinstance(counts, bytes):
        counts = counts.decode("latin-1")
    _check_runs(run_lengths(counts, where), size, where)
    return {"size": list(size), "counts": counts}


def from_polygons(polygons: Sequence[Sequence[float]], size: tuple[int, int], where: str) -> RLE:
    """The union of polygons [x1, y1, x2, y2, ...] in pixels, filled as COCO does.

    Raises ValueError for none, one of fewer than three corners, or a number that is not finite.
    """
    for polygon in polygons:
        corners = polygon if isinstance(polygon, (list, tuple, np.ndarray)) else ()
        numbers = [x for x in corners if isinstance(x, (int, float)) and np.isfinite(x)]
        if len(numbers) != len(corners) or len(corners) < 6 or len(corners) % 2:
            raise ValueError(
                f"{where}: expected polygons [x1, y1, x2, y2, x3, y3, ...] of at least three"
                f" corners, found {_short(polygon)}"
            )
    if not len(polygons):
        raise ValueError(f"{where}: expected polygons, found an empty list; null says absent")
    # as floats of double precision: frPyObjects wants lists of lists
    parts = coco.frPyObjects([[float(x) for x in polygon] for polygon in polygons], *size)
    return _text(coco.merge(parts))


def run_lengths(counts: str, where: str) -> np.ndarray:
    """The run lengths of compressed text, int64 [runs]; ValueError where it is damaged.

    A number has 5 bits a character, the lowest first, and its sign in the last one; from the third
    run of its kind on it is the difference to the run before of the same kind.
    """
    codes = counts.encode("utf-8", "surrogatepass") if isinstance(counts, str) else b" "
    if codes.translate(None, _VALID):
        raise ValueError(f"{where}: the compressed run lengths hold characters that are none")
    digits = np.frombuffer(codes, np.uint8).astype(np.int64) - _CODE
    ends = np.flatnonzero(digits < _MORE)
    starts = np.concatenate([[0], ends[:-1] + 1]).astype(int) if len(ends) else ends
    lengths = ends - starts + 1
    if not len(ends) or ends[-1] != len(digits) - 1 or lengths.max() > _LONGEST:
        raise ValueError(f"{where}: the compressed run lengths are cut off or damaged")
    shifts = 5 * (np.arange(len(digits)) - np.repeat(starts, lengths))
    values = np.add.reduceat((digits & 31) << shifts, starts)
    values -= np.where(digits[ends] & 16, np.int64(1) << (5 * lengths), 0)
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])  # the first run is no one's reference
    return values


def _check_runs(runs: np.ndarray, size: tuple[int, int], where: str) -> None:
    if not len(runs) or runs.min() < 0 or runs.sum() != size[0] * size[1]:
        raise ValueError(
            f"{where}: the run lengths are to sum up to {size[0]} x {size[1]} pixels, they give"
            f" {runs.sum()}" + (", with negative ones" if len(runs) and runs.min() < 0 else "")
        )


def _numbers(counts: list, where: str) -> np.ndarray:
    if not all(isinstance(x, int) for x in counts):
        raise ValueError(f"{where}: expected whole numbers as run lengths, found {_short(counts)}")
    return np.array(counts, np.int64)


def _text(rle: dict) -> RLE:
    return {"size": [int(n) for n in rle["size"]], "counts": rle["counts"].decode("ascii")}


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
