"""Random scale, crop and flip of a training clip (host side, numpy).

The recipe is that of FEELVOS: scale in [1.0, 1.3] with align_corners=True, padding at the bottom
and right with mean grey and void, a uniform crop and a flip. Frames of one group share all of it;
the reference is drawn independently of the pair (previous, query).
Frames may be warped on their own besides (`vos_jax.data.warp`, STM). With `Balance` and cubic
interpolation the recipe is CFBI's: crops are drawn until they show an object. Systems that look at
whole frames of one size stretch them to it (`fit`) and crop what a scale above 1 leaves over.
Deviations: a void pixel of the reference stays void; FEELVOS's code takes it for an object. CFBI
stretches frames that are smaller than the crop, here they are padded (its scales exceed the crop).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import cv2
import numpy as np

from vos_jax.data.clip import VOID
from vos_jax.data.objects import nearest_index, visible
from vos_jax.data.warp import Warp, cut_warped

MEAN_GREY = 127.5
INTERPOLATIONS = ("linear", "cubic")
FITS = ("crop", "stretch")


@dataclass(frozen=True)
class Crop:
    """Where a crop lies in the scaled image, and whether it is mirrored."""

    size: tuple[int, int]  # (H, W) of the scaled image
    top: int
    left: int
    flip: bool


@dataclass(frozen=True)
class Balance:
    """CFBI's balanced random crop (ECCV 2020, sec. 3.5).

    The place of a crop is drawn up to `tries` times, until its reference shows an object with more
    than `pixels` pixels.
    """

    tries: int = 5
    pixels: int = 100


def groups_of(groups: Sequence[Sequence[int]], frames: int) -> tuple[tuple[int, ...], ...]:
    """Groups of a clip of so many frames, made of groups of a clip of another length.

    Frames after the last one that is named join its group, and those that the clip does not have
    are left out: of 4 frames, ((0,), (1, 2)) are ((0,), (1, 2, 3)).
    """
    known = max((t for group in groups for t in group), default=-1)
    fitted = []
    for group in groups:
        later = range(known + 1, frames) if known in group else ()
        fitted.append((*(t for t in group if t < frames), *later))
    return tuple(group for group in fitted if group)


def augment(
    frames: np.ndarray,
    masks: np.ndarray,
    rng: np.random.Generator,
    *,
    crop: tuple[int, int],
    scale: tuple[float, float],
    flip: float,
    groups: Sequence[Sequence[int]],
    fit: str = "crop",
    short_side: int = 0,
    warp: Warp | None = None,
    balance: Balance | None = None,
    interpolation: str = "linear",
    contrast: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Scale, pad, crop and mirror every frame, with one set of parameters per group.

    frames: uint8 [T, H, W, 3]. masks: uint8 [T, H, W]. crop: (h, w). scale: (lowest, highest).
    fit: what has its own size at scale 1: "crop", the frame, of which a part is cut out, or
    "stretch", the crop, over which the whole frame is stretched whatever its shape.
    short_side: the shorter side of the frame at scale 1; 0: as it is. flip: probability. groups:
    positions in the clip that share parameters, e.g. ((0,), (1, 2)). warp: what happens to each
    frame alone.
    balance: how the place of the reference's group is drawn; None: once. interpolation: "linear",
    or "cubic", whose results may leave 0..255 and whose pixels are areas (align_corners=False), as
    those of cv2 and of `warp`; frames that become far smaller are averaged either way. contrast:
    see `stretched_contrast`.
    Returns float32 [T, h, w, 3] in 0..255 and uint8 [T, h, w].
    """
    if sorted(t for group in groups for t in group) != list(range(len(frames))):
        raise ValueError(
            f"groups must hold each frame 0..{len(frames) - 1} of a clip once, got {groups}"
        )
    out_frames = np.empty((len(frames), *crop, 3), np.float32)
    out_masks = np.empty((len(frames), *crop), np.uint8)
    size = crop if fit == "stretch" else frames.shape[1:3]
    unit = short_side / min(size) if short_side and fit == "crop" else 1.0
    for group in groups:
        where = random_crop(rng, size, crop, (unit * scale[0], unit * scale[1]), flip)
        if balance is not None and 0 in group:
            where = _balanced(rng, where, masks[0], crop, balance, interpolation)
        seed = rng.integers(2**32) if warp is not None and warp.shared else None
        for t in group:
            if warp is None:
                image = _cut(frames[t], where, crop, interpolation)
                labels = _cut_labels(masks[t], where, crop, interpolation)
            else:
                image, labels = cut_warped(
                    frames[t],
                    masks[t],
                    rng if seed is None else np.random.default_rng(seed),
                    warp,
                    crop=crop,
                    scaled=where.size,
                    corner=(where.top, where.left),
                    fill=MEAN_GREY,
                )
            if contrast:
                image = stretched_contrast(image)
            h, w = labels.shape
            columns = slice(w)
            if where.flip:
                image, labels = cv2.flip(image, 1), cv2.flip(labels, 1)
                columns = slice(crop[1] - w, None)
            if (h, w) != crop:
                out_frames[t], out_masks[t] = MEAN_GREY, VOID
            out_frames[t, :h, columns], out_masks[t, :h, columns] = image, labels
    return out_frames, out_masks


def stretched_contrast(image: np.ndarray) -> np.ndarray:
    """An image whose smallest value, of all channels, becomes 0 and whose largest becomes 255.

    Released code of COSNet, where scipy.misc.imresize does it to frames that are not uint8. An
    image of one value stays as it is. float32.
    """
    low, high = float(image.min()), float(image.max())
    if low == high:
        return image.astype(np.float32)
    return ((image - low) * (255.0 / (high - low))).astype(np.float32)


def random_crop(
    rng: np.random.Generator,
    size: tuple[int, int],
    crop: tuple[int, int],
    scale: tuple[float, float],
    flip: float,
) -> Crop:
    """Draw the scaled size (truncated to whole pixels), the place of the crop and the flip.

    size: (H, W) at scale 1.
    """
    factor = rng.uniform(*scale)
    scaled = (max(int(size[0] * factor), 1), max(int(size[1] * factor), 1))
    return Crop(scaled, *_place(rng, scaled, crop), bool(rng.random() < flip))


def _place(
    rng: np.random.Generator, scaled: tuple[int, int], crop: tuple[int, int]
) -> tuple[int, int]:
    """Top and left of a crop, uniform over those inside of the scaled image."""
    top, left = (int(rng.integers(max(s - c, 0) + 1)) for s, c in zip(scaled, crop, strict=True))
    return top, left


def _balanced(
    rng: np.random.Generator,
    where: Crop,
    reference: np.ndarray,
    crop: tuple[int, int],
    balance: Balance,
    interpolation: str,
) -> Crop:
    """`where`, moved until the labels of the reference have an object, or the last try."""
    for _ in range(balance.tries - 1):
        labels = _cut_labels(reference, where, crop, interpolation)
        if len(visible(labels, balance.pixels)):
            break
        top, left = _place(rng, where.size, crop)
        where = replace(where, top=top, left=left)
    return where


def _cut(image: np.ndarray, where: Crop, crop: tuple[int, int], interpolation: str) -> np.ndarray:
    """The part of the scaled image that lies in the crop, float32."""
    spans, size = _spans(where, crop), image.shape[:2]
    if min(where.size) < 0.75 * min(size):  # far smaller: average, or detail turns to noise
        return cv2.resize(image, where.size[::-1], interpolation=cv2.INTER_AREA)[spans].astype(
            np.float32
        )
    if interpolation == "cubic":
        image = image.astype(np.float32)  # or cv2 would clip and round
        return cv2.resize(image, where.size[::-1], interpolation=cv2.INTER_CUBIC)[spans]
    rows, columns = (_taps(*axis) for axis in zip(size, where.size, spans, strict=True))
    image = image[:, columns.near[0] : columns.far[-1] + 1]  # what else a row holds is not needed
    columns = columns._replace(
        near=columns.near - columns.near[0], far=columns.far - columns.near[0]
    )
    return _interpolated(_interpolated(image, rows, 0), columns, 1)


def _cut_labels(
    labels: np.ndarray, where: Crop, crop: tuple[int, int], interpolation: str
) -> np.ndarray:
    """The part of the scaled labels that lies in the crop, computed nowhere else."""
    index = nearest_index if interpolation == "linear" else _floor_index
    rows, columns = (
        index(n, s)[span]
        for n, s, span in zip(labels.shape, where.size, _spans(where, crop), strict=True)
    )
    return labels[rows].take(columns, axis=1)


def _spans(where: Crop, crop: tuple[int, int]) -> tuple[slice, slice]:
    """Rows and columns of the scaled image that lie in the crop."""
    rows, columns = (
        slice(start, min(start + c, s))
        for start, c, s in zip((where.top, where.left), crop, where.size, strict=True)
    )
    return rows, columns


def _floor_index(n: int, m: int) -> np.ndarray:
    """Source index [m] of cv2.INTER_NEAREST resizing n -> m."""
    return np.minimum((np.arange(m) * (n / m)).astype(int), n - 1)


class _Taps(NamedTuple):
    """Between which two places of the source each output of an axis lies, and how near the second.

    int [m], int [m] and float32 [m].
    """

    near: np.ndarray
    far: np.ndarray
    weight: np.ndarray


def _taps(n: int, m: int, span: slice) -> _Taps:
    """Of linear resizing n -> m with align_corners=True, for the outputs in `span`."""
    step = np.float32(n - 1) / np.float32(max(m - 1, 1))
    position = np.arange(m, dtype=np.float32)[span] * step
    near = np.minimum(position.astype(int), n - 1)
    return _Taps(near, np.minimum(near + 1, n - 1), (position - near).astype(np.float32))


def _interpolated(x: np.ndarray, taps: _Taps, axis: int) -> np.ndarray:
    """near + weight * (far - near) along an axis, float32."""
    near = np.take(x, taps.near, axis).astype(np.float32, copy=False)
    if not taps.weight.any():
        return near
    out = np.take(x, taps.far, axis).astype(np.float32, copy=False)
    out -= near
    out *= taps.weight.reshape([-1 if i == axis else 1 for i in range(x.ndim)])
    out += near
    return out
