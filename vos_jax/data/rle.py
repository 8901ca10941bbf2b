"""Masks as run lengths, the form of COCO and YouTube-VIS files: an RLE.

An RLE is {"size": [H, W], "counts": text}: the lengths of the runs of 0 and 1 by turns, down the
columns, the first one of 0 and maybe empty, in the compressed text of pycocotools. It goes into
json as it is. pycocotools does the work, and trusts what it is given (a text that is cut off is
read past its end): what comes from a file goes through `from_segmentation`, which checks it.
"""

from array import array
from collections.abc import Sequence
from typing import Any, TypedDict

import numpy as np
from pycocotools import mask as coco

_CODE = 48  # of the character for 0
_MORE = 32  # this bit of a character says that its number goes on
_LONGEST = 6  # characters of a run, 5 bits each: enough for any image
_FAR = 10  # sizes of the image: filling takes time and memory by the length of an outline
_WRITTEN = bytes(range(_CODE, _CODE + 64))  # the characters


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
    return from_segmentations([segmentation], size, [where])[0]


def from_segmentations(
    segmentations: Sequence[Any], size: tuple[int, int], where: Sequence[str]
) -> list[RLE | None]:
    """`from_segmentation` of many masks of one size, whose texts are checked together.

    where: of each mask, for the message about it.
    """
    rles = [_rle(one, size, name) for one, name in zip(segmentations, where, strict=True)]
    written = [n for n, one in enumerate(segmentations) if isinstance(one, dict)]
    texts = [rles[n]["counts"] for n in written]
    names = [where[n] for n in written]
    runs, starts = run_lengths(texts, names)
    if texts:
        smallest, totals = np.minimum.reduceat(runs, starts), np.add.reduceat(runs, starts)
        for name, low, total in zip(names, smallest.tolist(), totals.tolist(), strict=True):
            _check_runs(low, total, size, name)
    return rles


def _rle(segmentation: Any, size: tuple[int, int], where: str) -> RLE | None:
    """One mask in our form; of run lengths, the text is not checked yet."""
    if segmentation is None:
        return None
    if isinstance(segmentation, list):
        return from_polygons(segmentation, size, where)
    if not isinstance(segmentation, dict) or not {"size", "counts"} <= segmentation.keys():
        raise ValueError(
            f"{where}: expected null, polygons or run lengths with size and counts, found"
            f" {_short(segmentation)}"
        )
    if segmentation["size"] != list(size):
        raise ValueError(
            f"{where}: the mask is of size {_short(segmentation['size'])} (height, width), its"
            f" frame {list(size)}; encode masks at the size of the frames"
        )
    counts = segmentation["counts"]
    if isinstance(counts, list):
        try:
            runs = np.frombuffer(array("I", counts), np.uintc)  # refuses what is none, at speed
        except (TypeError, OverflowError):
            raise _no_runs(where) from None
        _check_runs(0, int(runs.sum(dtype=np.int64)), size, where)
        return _text(coco.frPyObjects({"size": list(size), "counts": runs}, *size))
    if isinstance(counts, bytes):
        counts = counts.decode("latin-1")
    if not isinstance(counts, str):
        raise ValueError(f"{where}: expected counts as text or numbers, found {_short(counts)}")
    return {"size": list(size), "counts": counts}


def from_polygons(polygons: Sequence[Sequence[float]], size: tuple[int, int], where: str) -> RLE:
    """The union of polygons [x1, y1, x2, y2, ...] in pixels, filled as COCO does.

    Raises ValueError for none, one of fewer than three corners, or a corner far outside the image.
    """
    for polygon in polygons:
        corners = polygon if isinstance(polygon, (list, tuple, np.ndarray)) else ()
        far = _FAR * max(size)  # NaN is not below
        numbers = [x for x in corners if isinstance(x, (int, float)) and abs(x) < far]
        if len(numbers) != len(corners) or len(corners) < 6 or len(corners) % 2:
            raise ValueError(
                f"{where}: expected polygons [x1, y1, x2, y2, x3, y3, ...] of at least three"
                f" corners in or near its image, found {_short(polygon)}"
            )
    if not len(polygons):
        raise ValueError(f"{where}: expected polygons, found an empty list; null says absent")
    parts = coco.frPyObjects([[float(x) for x in polygon] for polygon in polygons], *size)
    return _text(coco.merge(parts))


def run_lengths(texts: Sequence[str], where: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """The run lengths of compressed texts one after the other, int64 [runs], and where each begins.

    A number has 5 bits a character, the lowest first, with its sign in the last one; from the third
    run of its kind on it is the difference to the run before of the same kind. Raises ValueError
    that begins with the text's `where` where it is damaged.
    """
    codes = [text.encode("utf-8", "surrogatepass") for text in texts]
    for name, code in zip(where, codes, strict=True):
        if not code or code[-1] >= _CODE + _MORE or code.translate(None, _WRITTEN):
            raise ValueError(f"{name}: the compressed run lengths are cut off or damaged")
    bounds = np.cumsum([0, *map(len, codes)])
    digits = np.frombuffer(b"".join(codes), np.uint8) - np.uint8(_CODE)
    ends = np.flatnonzero(digits < _MORE)
    numbers = (((digits[ends] ^ 16) & 31).astype(np.int64)) - 16  # the last character has the sign
    characters = np.diff(ends, prepend=-1)
    if len(ends) and characters.max() > _LONGEST:
        text = np.searchsorted(bounds, ends[characters.argmax()], side="right") - 1
        raise ValueError(f"{where[text]}: a run length of more than {_LONGEST} characters")
    longer = np.flatnonzero(characters > 1)
    for back in range(1, _LONGEST):
        numbers[longer] = numbers[longer] * 32 + (digits[ends[longer] - back] & 31)
        longer = longer[characters[longer] > back + 1]
    starts = np.searchsorted(ends, bounds)
    return _sums_of_every_second(numbers, starts[:-1], starts[1:]), starts[:-1]


def _sums_of_every_second(numbers: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Running sums within each text, of the runs of 1 and, without the first, of those of 0."""
    runs = np.empty_like(numbers)
    for lane in (0, 1):  # every second number of all texts
        sums = np.cumsum(numbers[lane::2])
        first, last = (starts + 1 - lane) // 2, (ends + 1 - lane) // 2
        zeros = starts % 2 == lane  # the text's runs of 0 are in this lane: summed from the second
        before = np.append(sums, 0)[first - 1 + zeros]  # -1: nothing
        runs[lane::2] = sums - np.repeat(before, last - first)
    runs[starts] = numbers[starts]
    return runs


def _check_runs(smallest: int, total: int, size: tuple[int, int], where: str) -> None:
    if smallest < 0:
        raise _no_runs(where)
    if total != size[0] * size[1]:
        raise ValueError(
            f"{where}: the run lengths are to sum up to {size[0]} x {size[1]} pixels, they give"
            f" {total}"
        )


def _no_runs(where: str) -> ValueError:
    return ValueError(f"{where}: expected whole numbers from 0 as run lengths, found others")


def _text(rle: dict) -> RLE:
    return {"size": [int(n) for n in rle["size"]], "counts": rle["counts"].decode("ascii")}


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
