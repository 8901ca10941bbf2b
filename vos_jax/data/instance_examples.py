"""Training examples with instances: frames of a video on one canvas, with boxes and masks.

An example is a key frame that shows an object, and other frames of its video. All share one scale
and one flip. They keep their aspect and fill the canvas from its top left corner; what is left of
it is black, and `size` says where a frame ends. Crowds are left out.

As in MaskTrack R-CNN (Yang et al., ICCV 2019; youtubevos/MaskTrackRCNN, mmdet/datasets) frames are
scaled by one factor, bilinear, and masks by nearest neighbour, and every frame of a source that
shows an object is the key frame once in an epoch. Deviation: a portrait video is made to fit into
the same canvas (there batches have one orientation).

Example i depends on the seed and on i alone: which source it is from follows from the shares, its
place in the source from how many were before it, and the order of an epoch from the seed. Where a
frame comes twice, as that of a still, the second is a warped view of the first.

Boxes are continuous corners in pixels of the canvas.

Glossary: T frames, N slots of instances, H W the canvas.
"""

import math
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any

import cv2
import numpy as np

from vos_jax.data.instances import InstanceClip, InstanceVideo
from vos_jax.data.rle import boxes, encode
from vos_jax.data.sources import Source, instance_videos, open_sources
from vos_jax.data.warp import Warp, draw_places, recolour

CHOICES = ("any_other", "around")
ATTEMPTS = 20
NEAREST = cv2.INTER_NEAREST


class InstanceExamples:
    """An endless sequence of examples drawn from sources of instance videos.

    frames: T. canvas: (H, W). sides: long and short one that a frame is made to fit into, enlarged
    where it is smaller. flip: probability. max_objects: N; of more instances some are drawn, those
    of the key frame first. choose: "any_other", the key frame and then others that show an object;
    "around", frames in order with the key frame in the middle, each at most `reach` from it.
    inclusive: boxes end at their last pixel, as in mmdet 0.x: 1 is subtracted before they are
    scaled. warp: of frames that come again, None: they are the same. on_bad_clip: "raise", or
    "skip" unreadable files and count them in `bad_clips`.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        *,
        frames: int,
        canvas: tuple[int, int],
        sides: tuple[int, int],
        flip: float,
        max_objects: int,
        seed: int,
        choose: str = "any_other",
        reach: int = 1,
        inclusive: bool = False,
        warp: Warp | None = None,
        on_bad_clip: str = "raise",
    ):
        known = {"clip.choose": (choose, CHOICES), "on_bad_clip": (on_bad_clip, ("raise", "skip"))}
        for field, (value, names) in known.items():
            if value not in names:
                raise ValueError(f"config.data.{field}: expected one of {names}, got {value!r}")
        if max(sides) > max(canvas) or min(sides) > min(canvas):
            raise ValueError(
                f"config.data.sides: expected long and short side of at most {max(canvas)} and"
                f" {min(canvas)}, those of config.data.crop, got {tuple(sides)}"
            )
        self.bad_clips = 0
        self._keys = [_key_frames(source) for source in sources]
        self._weights = [source.weight for source in sources]
        self._frames, self._slots, self._seed = int(frames), int(max_objects), int(seed)
        self._canvas = (int(canvas[0]), int(canvas[1]))
        self._sides, self._flip = tuple(sides), float(flip)
        self._choose, self._reach = choose, int(reach)
        self._inclusive, self._warp = bool(inclusive), warp or Warp()
        self._skip, self._lock = on_bad_clip == "skip", threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _lock=threading.Lock())

    @classmethod
    def of(cls, data: Mapping[str, Any], seed: int) -> "InstanceExamples":
        """The examples of a section config.data; the sources are those of data["train"]."""
        names = "sides flip max_objects inclusive on_bad_clip"
        return cls(
            open_sources(data, "train"),
            **data["clip"],
            canvas=data["crop"],
            warp=Warp(**data["warp"]),
            seed=seed,
            **{name: data[name] for name in names.split()},
        )

    def columns(self) -> dict[str, Any]:
        """An empty example."""
        frames, slots, canvas = self._frames, self._slots, self._canvas
        return dict(
            frames=np.zeros((frames, *canvas, 3), np.float32),
            size=np.zeros(2, np.int32),
            boxes=np.zeros((frames, slots, 4), np.float32),
            masks=np.zeros((frames, slots, *canvas), bool),
            classes=np.zeros(slots, np.int32),
            valid=np.zeros((frames, slots), bool),
            name=b"",
            source_index=np.zeros(frames, np.int32),
        )

    def example(self, i: int) -> dict:
        """Training example i.

        Returns frames float32 [T, H, W, 3] in 0..255, size int32 [2] (height and width of what is
        no border), boxes float32 [T, N, 4], masks bool [T, N, H, W], classes int32 [N] from 1 (0:
        a free slot), valid bool [T, N] (the instance is there and has a box of a pixel at least),
        name "dataset/video", source_index int32 [T].
        Raises the error of a file that cannot be read, unless it is skipped.
        """
        errors = []
        source, number = turn(int(i), self._weights)
        keys = self._keys[source]
        epoch, place = divmod(number, len(keys))
        order = _order((self._seed, source, epoch), len(keys))
        for attempt in range(ATTEMPTS):
            rng = np.random.default_rng([self._seed, int(i), attempt])
            video, key = keys[order[(place + attempt) % len(keys)]]
            try:
                return self._finish(video.clip(self._indices(video, key, rng)), rng)
            except (ValueError, OSError) as error:
                if not self._skip:
                    raise
                errors.append(str(error))
                self._count_bad(error)
        raise ValueError(f"example {i}: none of {ATTEMPTS} draws can be read: {errors[0]}")

    def _count_bad(self, error: Exception) -> None:
        with self._lock:
            self.bad_clips += 1
            first = self.bad_clips == 1
        if first:
            print(f"skipped, as are later ones without a word: {error}", file=sys.stderr)

    def _indices(self, video: InstanceVideo, key: int, rng: np.random.Generator) -> list[int]:
        shown, others = _shown(video), self._frames - 1
        if self._choose == "any_other":
            left = shown[shown != key]
            drawn = rng.choice(left, others, replace=len(left) < others) if len(left) else []
            return [key, *map(int, drawn), *[key] * (others - len(drawn))]
        before = np.sort(rng.integers(1, self._reach + 1, self._frames // 2))[::-1]
        after = np.sort(rng.integers(1, self._reach + 1, others - len(before)))
        return np.clip([*(key - before), key, *(key + after)], 0, len(video) - 1).tolist()

    def _finish(self, clip: InstanceClip, rng: np.random.Generator) -> dict:
        key = 0 if self._choose == "any_other" else self._frames // 2
        chosen = _chosen(clip, key, self._slots, rng)
        size = fitted_size(clip.frames.shape[1:3], self._sides, self._canvas)
        flip = rng.random() < self._flip
        out = self.columns()
        out.update(size=np.array(size, np.int32), name=f"{clip.dataset}/{clip.name}")
        out["source_index"][:] = clip.source_index
        count = len(chosen)
        out["classes"][:count] = clip.classes[chosen]
        seen = set()
        for t in sorted(range(self._frames), key=lambda t: t != key):  # the key frame first
            again = clip.source_index[t] in seen
            seen.add(clip.source_index[t])
            view = clip.frames[t], clip.masks[t, chosen], clip.boxes[t, chosen]
            view = _fitted(*view, size, self._inclusive)
            if again and self._warp.changes:
                view = _warped(*view[:2], self._warp, self._inclusive, rng)
            if flip:
                view = _flipped(*view, self._inclusive)
            frame, masks, corners = view
            out["frames"][t, : size[0], : size[1]] = frame
            out["masks"][t, :count, : size[0], : size[1]] = masks
            large = (corners[:, 2:] - corners[:, :2] + self._inclusive >= 1).all(axis=-1)
            valid = clip.valid[t, chosen] & large & masks.any((1, 2))
            out["valid"][t, :count] = valid
            out["boxes"][t, :count] = np.where(valid[:, None], corners, 0)
        return out


def turn(i: int, weights: Sequence[float]) -> tuple[int, int]:
    """Which source example i is from, and how many of that source were before it.

    Of i examples a source has floor(share x i), the first one first among those that are left.
    """
    for source in range(len(weights) - 1):
        share = weights[source] / sum(weights[source:])
        before, after = math.floor(share * i), math.floor(share * (i + 1))
        if after > before:
            return source, before
        i -= before
    return len(weights) - 1, i


@lru_cache(maxsize=16)
def _order(seed: tuple[int, ...], count: int) -> np.ndarray:
    return np.random.default_rng(seed).permutation(count)


def fitted_size(
    size: tuple[int, int], sides: tuple[int, int], canvas: tuple[int, int]
) -> tuple[int, int]:
    """(height, width) of a frame of `size` that fits into long and short sides, and the canvas.

    The factor is that of mmdet 0.x, and so is the rounding; a portrait frame on a landscape canvas
    is smaller.
    """
    height, width = size
    factor = min(max(sides) / max(height, width), min(sides) / min(height, width))
    factor = min(factor, canvas[0] / height, canvas[1] / width)
    return int(height * factor + 0.5), int(width * factor + 0.5)


def _shown(video: InstanceVideo) -> np.ndarray:
    """The frames that show an object, which is known without pixels."""
    return np.flatnonzero((video.valid & ~video.crowd).any(axis=1))


def _key_frames(source: Source) -> list[tuple[InstanceVideo, int]]:
    """All of a source."""
    keys = [(video, int(t)) for video in instance_videos([source]) for t in _shown(video)]
    if not keys:
        raise ValueError(f"source {source.name}: no video shows an object to train on")
    return keys


def _chosen(clip: InstanceClip, key: int, slots: int, rng: np.random.Generator) -> np.ndarray:
    """Numbers of up to `slots` instances that are seen, those of the key frame first."""
    order = rng.permutation(len(clip.ids))
    seen = clip.valid.any(axis=0) & ~clip.crowd
    order = order[seen[order]]
    return np.sort(order[np.argsort(~clip.valid[key, order], kind="stable")][:slots])


View = tuple[np.ndarray, np.ndarray, np.ndarray]  # frame [h, w, 3], masks [n, h, w], boxes [n, 4]


def _fitted(
    frame: np.ndarray,
    masks: np.ndarray,
    corners: np.ndarray,
    size: tuple[int, int],
    inclusive: bool,
) -> View:
    """A frame with its instances at another size, boxes cut at its borders."""
    y, x = size[0] / frame.shape[0], size[1] / frame.shape[1]
    corners = (corners - np.float32([0, 0, inclusive, inclusive])) * np.float32([x, y, x, y])
    corners = np.clip(corners, 0, np.float32([size[1], size[0]] * 2) - inclusive)
    if frame.shape[:2] != size:
        frame = cv2.resize(frame, size[::-1], interpolation=cv2.INTER_LINEAR)
        masks = _each(masks, partial(cv2.resize, dsize=size[::-1], interpolation=NEAREST), size)
    return frame, masks, corners


def _warped(
    frame: np.ndarray, masks: np.ndarray, warp: Warp, inclusive: bool, rng: np.random.Generator
) -> View:
    """Another view of a frame; boxes are those around the warped masks."""
    size = frame.shape[:2]
    places = draw_places(rng, warp, crop=size, size=size, scaled=size, corner=(0, 0)).astype(
        np.float32
    )
    masks = _each(masks, lambda mask: cv2.remap(mask, *places, NEAREST), size)
    frame = cv2.remap(frame, *places, cv2.INTER_LINEAR).astype(np.float32)
    found = boxes(encode(masks))
    found[:, 2:] -= inclusive * masks.any((1, 2))[:, None]
    return recolour(frame, rng, warp.colour), masks, found


def _flipped(frame: np.ndarray, masks: np.ndarray, corners: np.ndarray, inclusive: bool) -> View:
    """Left and right exchanged."""
    left, top, right, bottom = corners.T
    width = frame.shape[1] - inclusive
    corners = np.stack([width - right, top, width - left, bottom], axis=1)
    return frame[:, ::-1], masks[..., ::-1], corners


def _each(masks: np.ndarray, change: Callable, size: tuple[int, int]) -> np.ndarray:
    """The masks bool [n, h, w] that `change` makes of masks, one after the other."""
    changed = [change(mask) for mask in masks.astype(np.uint8)]
    return np.array(changed, bool).reshape(len(masks), *size)
