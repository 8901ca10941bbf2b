"""Training examples of instances: a key frame and others of its video, scaled onto one canvas.

Every frame with an instance is the key frame once an epoch, in an order that follows from the seed
and the epoch; example i depends on (seed, i) and on nothing else. Which frames come with it:

    key       none
    pair      a reference frame, any other one of the video with an instance (MaskTrack R-CNN)
    around    one before and one after, each up to `reach` away (MaskProp); at an end the key itself

Where a video has no other frame, as an image, the others are the key frame again, warped.

Glossary: T frames of an example, the key frame first, or in the middle for "around"; N instance
slots, filled from the front; (h, w) the canvas.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any

import cv2
import numpy as np

from vos_jax.data.instances import InstanceVideo
from vos_jax.data.rle import decode
from vos_jax.data.sources import instance_videos, open_sources
from vos_jax.data.warp import Warp, draw_places, recolour

FRAMES = {"key": 1, "pair": 2, "around": 3}  # by the name in a config
MULTIPLE = 32  # of the sides of a canvas
_NEAREST = cv2.INTER_NEAREST


class InstanceExamples:
    """An endless sequence of training examples drawn from videos with instances.

    choose: one of FRAMES. reach: of "around". image_scales: (long, short) sides that an image is
    scaled to fit, keeping its shape; one is drawn for an example. canvas: (h, w), multiples of 32;
    an image that is larger still, as a portrait on a landscape canvas, is scaled to fit it. flip:
    probability. max_instances: N; of more a random choice is taken, those in the key frame first,
    and the others are counted in `left_out`. inclusive: boxes end at their last pixel, as in mmdet
    0.x: 1 is subtracted before they are scaled. warp: of a still's other frames. on_bad_clip: what
    a file that cannot be read does: "raise", or "skip" to the next key frame; `bad_clips` counts.
    """

    def __init__(
        self,
        videos: Sequence[InstanceVideo],
        *,
        choose: str = "pair",
        reach: int = 3,
        image_scales: Sequence[tuple[int, int]] = ((640, 360),),
        canvas: tuple[int, int] = (384, 640),
        flip: float = 0.5,
        max_instances: int = 16,
        inclusive: bool = False,
        warp: Warp | None = None,
        seed: int = 0,
        on_bad_clip: str = "raise",
    ):
        if choose not in FRAMES:
            raise ValueError(
                f"config.data.clip.choose: expected one of {(*FRAMES,)}, got {choose!r}"
            )
        if on_bad_clip not in ("raise", "skip"):
            raise ValueError(
                f"config.data.on_bad_clip: expected 'raise' or 'skip', got {on_bad_clip!r}"
            )
        if len(canvas) != 2 or min(canvas) < MULTIPLE or any(side % MULTIPLE for side in canvas):
            raise ValueError(
                f"config.data.canvas: expected (height, width), multiples of {MULTIPLE}, got"
                f" {tuple(canvas)}"
            )
        self._videos = list(videos)
        self._keys = [(v, t) for v, video in enumerate(videos) for t in with_instance(video)]
        if not self._keys:
            raise ValueError(
                f"expected videos with instances to train on, found none in {len(self._videos)}"
            )
        self._frames, self._canvas = FRAMES[choose], (int(canvas[0]), int(canvas[1]))
        self._slots = int(max_instances)
        self.bad_clips = self.left_out = 0
        self._choose, self._reach = choose, int(reach)
        self._scales, self._flip = [tuple(scale) for scale in image_scales], float(flip)
        self._inclusive, self._warp = bool(inclusive), warp or Warp()
        self._seed, self._skip = int(seed), on_bad_clip == "skip"
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _lock=threading.Lock())

    def __len__(self) -> int:
        """Key frames, which make an epoch."""
        return len(self._keys)

    @classmethod
    def of(cls, data: Mapping[str, Any], seed: int) -> "InstanceExamples":
        """The examples of a section config.data; key frames of all sources count alike."""
        warp = Warp(**data["warp"])
        names = "image_scales canvas flip max_instances inclusive on_bad_clip"
        return cls(
            instance_videos(open_sources(data, "train")),
            **data["clip"],
            **{name: data[name] for name in names.split()},
            warp=warp if warp.changes else None,
            seed=seed,
        )

    def columns(self) -> dict[str, Any]:
        """The columns of an example, empty.

        frames: float32 [T, h, w, 3] in 0..255, 0 below and right of the image. masks: bool [T, N,
        h, w]. boxes: float32 [T, N, 4]. valid: bool [T, N]. classes: int32 [N] from 1, 0 in a free
        slot. ids: int32 [N]. crowd: bool [N]. size: int32 [2], (height, width) of the image on the
        canvas. name, source_index [T]: where it comes from.
        """
        frames, slots = self._frames, self._slots
        return dict(
            frames=np.zeros((frames, *self._canvas, 3), np.float32),
            masks=np.zeros((frames, slots, *self._canvas), bool),
            boxes=np.zeros((frames, slots, 4), np.float32),
            valid=np.zeros((frames, slots), bool),
            classes=np.zeros(slots, np.int32),
            ids=np.zeros(slots, np.int32),
            crowd=np.zeros(slots, bool),
            size=np.zeros(2, np.int32),
            name=b"",
            source_index=np.zeros(frames, np.int32),
        )

    def example(self, i: int) -> dict[str, Any]:
        """Training example i; the columns are those of `columns`."""
        epoch, place = divmod(int(i), len(self._keys))
        order = _order(self._seed, epoch, len(self._keys))
        for attempt in range(len(self._keys)):
            video, t = self._keys[order[(place + attempt) % len(order)]]
            try:
                return self._made(self._videos[video], t, np.random.default_rng([self._seed, i]))
            except (ValueError, OSError):
                if not self._skip:
                    raise
                with self._lock:
                    self.bad_clips += 1
        raise ValueError(f"none of {len(self._keys)} key frames could be read")

    def _made(self, video: InstanceVideo, key: int, rng: np.random.Generator) -> dict[str, Any]:
        times = self._times(video, key, rng)
        chosen = self._chosen(video, key, times, rng)
        height, width = video.original_size
        scale = self._scales[rng.integers(len(self._scales))]
        factor = _factor((height, width), scale, self._canvas)
        size = int(height * factor + 0.5), int(width * factor + 0.5)
        flip = rng.random() < self._flip
        out = self.columns()
        slots = np.arange(len(chosen))
        for row, t in enumerate(times):
            again = t == key and row != self._key_row  # another view of the same frame
            view = self._view(video, t, chosen, factor, size, rng if again else None)
            image, masks, boxes = _flipped(*view, self._inclusive) if flip else view
            out["frames"][row, : size[0], : size[1]] = image
            out["masks"][row, slots, : size[0], : size[1]] = masks
            out["boxes"][row, slots] = boxes
            sides = boxes[:, 2:] - boxes[:, :2] + self._inclusive
            out["valid"][row, slots] = (sides >= 1).all(1) & masks.any((1, 2))
            out["boxes"][row] *= out["valid"][row, :, None]
        out["classes"][slots], out["ids"][slots] = video.classes[chosen], video.ids[chosen]
        out["crowd"][slots] = video.crowd[chosen]
        out["size"][:], out["source_index"][:] = size, times
        out["name"] = f"{video.dataset}/{video.name}".encode()
        return out

    @property
    def _key_row(self) -> int:
        return 1 if self._choose == "around" else 0

    def _times(self, video: InstanceVideo, key: int, rng: np.random.Generator) -> list[int]:
        if self._choose == "key":
            return [key]
        if self._choose == "pair":
            others = [t for t in with_instance(video) if t != key]
            return [key, int(rng.choice(others)) if others else key]
        before, after = rng.integers(1, self._reach + 1, 2).tolist()
        return [max(key - before, 0), key, min(key + after, len(video) - 1)]

    def _chosen(
        self, video: InstanceVideo, key: int, times: list[int], rng: np.random.Generator
    ) -> np.ndarray:
        """The instances that take the slots, in the order of the video."""
        shown = np.flatnonzero(video.valid[times].any(0))
        if len(shown) <= self._slots:
            return shown
        with self._lock:
            self.left_out += len(shown) - self._slots
        mixed = rng.permutation(shown)
        first = np.argsort(~video.valid[key, mixed], kind="stable")[: self._slots]
        return np.sort(mixed[first])

    def _view(
        self,
        video: InstanceVideo,
        t: int,
        chosen: np.ndarray,
        factor: float,
        size: tuple[int, int],
        rng: np.random.Generator | None,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Image float32 [h, w, 3], masks bool [n, h, w], boxes [n, 4] of a frame; rng: warped."""
        rles = video.rles(t)
        masks = decode([rles[n] for n in chosen], video.original_size)
        image = cv2.resize(video.frame(t), size[::-1], interpolation=cv2.INTER_LINEAR)
        masks = _each(masks, partial(cv2.resize, dsize=size[::-1], interpolation=_NEAREST), size)
        if rng is not None and self._warp.changes:
            whole = dict(crop=size, size=size, scaled=size, corner=(0, 0))
            places = draw_places(rng, self._warp, **whole).astype(np.float32)
            image = cv2.remap(image, *places, cv2.INTER_LINEAR)
            masks = _each(masks, lambda mask: cv2.remap(mask, *places, _NEAREST), size)
            image = recolour(image.astype(np.float32), rng, self._warp.colour)
            return image, masks, _around(masks, self._inclusive)
        ends = np.array([0, 0, 1, 1], np.float32) * self._inclusive
        boxes = (video.boxes(t)[chosen] - ends) * np.float32(factor)
        limits = np.array([size[1], size[0]] * 2, np.float32) - self._inclusive
        return image, masks, np.clip(boxes, 0, limits)


def with_instance(video: InstanceVideo) -> list[int]:
    """The frames in which an instance is seen that is no crowd."""
    return np.flatnonzero(video.valid[:, ~video.crowd].any(1)).tolist()


@lru_cache(maxsize=4)
def _order(seed: int, epoch: int, count: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(count)


def _factor(size: tuple[int, int], scale: tuple[int, int], canvas: tuple[int, int]) -> float:
    """The largest factor with which an image fits into (long, short) sides and the canvas."""
    sides = max(scale) / max(size), min(scale) / min(size)
    return min(*sides, canvas[0] / size[0], canvas[1] / size[1])


def _each(masks: np.ndarray, change: Callable, size: tuple[int, int]) -> np.ndarray:
    changed = [change(mask) for mask in masks.astype(np.uint8)]
    return np.array(changed, bool).reshape(len(masks), *size)


def _flipped(
    image: np.ndarray, masks: np.ndarray, boxes: np.ndarray, inclusive: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Left and right exchanged."""
    left, top, right, bottom = boxes.T
    width = image.shape[1] - inclusive
    boxes = np.stack([width - right, top, width - left, bottom], axis=1)
    return image[:, ::-1], masks[..., ::-1], boxes


def _around(masks: np.ndarray, inclusive: bool) -> np.ndarray:
    """The boxes around masks, float32 [n, 4]; 0 where empty."""
    boxes = np.zeros((len(masks), 4), np.float32)
    for n, mask in enumerate(masks):
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        if len(rows):
            last = np.array([columns[-1], rows[-1]]) + (not inclusive)
            boxes[n] = columns[0], rows[0], *last
    return boxes
