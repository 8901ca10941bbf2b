"""Training examples with instances: frames of a video on one canvas, with boxes and masks.

An example is a key frame that shows an object, and other frames of its video. All share one scale
and one flip. They keep their aspect and fill the canvas from its top left corner; what is left of
it is black, and `size` says where a frame ends. Crowds are left out.

As in MaskTrack R-CNN (Yang et al., ICCV 2019; youtubevos/MaskTrackRCNN, mmdet/datasets) frames are
scaled by one factor, bilinear, and masks by nearest neighbour. Deviations: key frames are drawn
with the seed, each as likely as another (in the release each comes once in an epoch), and a
portrait video is made to fit into the same canvas (there batches have one orientation).

Boxes are continuous corners in pixels of the canvas, whatever a network makes of them.

Glossary: T frames, N slots of instances, H W the canvas.
"""

import sys
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np

from vos_jax.data.instances import InstanceClip, InstanceVideo
from vos_jax.data.painted import PaintedVideo
from vos_jax.data.sources import Source, open_sources

CHOICES = ("any_other", "around")
ATTEMPTS = 20


class InstanceExamples:
    """An endless sequence of examples drawn from sources of instance videos.

    frames: T. canvas: (H, W). scale: (long, short) sides that a frame is made to fit into, enlarged
    where it is smaller. flip: probability. max_objects: N; of more instances some are drawn, those
    of the key frame first. choose: "any_other", the key frame and then others that show an object;
    "around", frames in order with the key frame in the middle, each at most `reach` from it.
    on_bad_clip: "raise", or "skip" unreadable files and count them in `bad_clips`.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        *,
        frames: int,
        canvas: tuple[int, int],
        scale: tuple[int, int],
        flip: float,
        max_objects: int,
        seed: int,
        choose: str = "any_other",
        reach: int = 1,
        on_bad_clip: str = "raise",
    ):
        known = {"clip.choose": (choose, CHOICES), "on_bad_clip": (on_bad_clip, ("raise", "skip"))}
        for field, (value, names) in known.items():
            if value not in names:
                raise ValueError(f"config.data.{field}: expected one of {names}, got {value!r}")
        if max(scale) > max(canvas) or min(scale) > min(canvas):
            raise ValueError(
                f"config.data.scale: expected long and short side of at most {max(canvas)} and"
                f" {min(canvas)}, those of config.data.crop, got {tuple(scale)}"
            )
        self.bad_clips = 0
        self._videos = [_with_objects(source) for source in sources]
        weights = np.array([source.weight for source in sources], np.float64)
        self._shares = weights / weights.sum()
        self._frames, self._slots, self._seed = int(frames), int(max_objects), int(seed)
        self._canvas = (int(canvas[0]), int(canvas[1]))
        self._scale, self._flip = tuple(scale), float(flip)
        self._choose, self._reach = choose, int(reach)
        self._skip, self._lock = on_bad_clip == "skip", threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _lock=threading.Lock())

    @classmethod
    def of(cls, data: Mapping[str, Any], seed: int) -> "InstanceExamples":
        """The examples of a section config.data; the sources are those of data["train"]."""
        return cls(
            open_sources(data, "train"),
            **data["clip"],
            canvas=data["crop"],
            seed=seed,
            **{name: data[name] for name in ("scale", "flip", "max_objects", "on_bad_clip")},
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
        for attempt in range(ATTEMPTS):
            rng = np.random.default_rng([self._seed, int(i), attempt])
            videos = self._videos[rng.choice(len(self._videos), p=self._shares)]
            video = videos[rng.integers(len(videos))]
            try:
                return self._finish(video.clip(self._indices(video, rng)), rng)
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

    def _indices(self, video: InstanceVideo, rng: np.random.Generator) -> list[int]:
        shown = np.flatnonzero((video.valid & ~video.crowd).any(axis=1))
        key, others = int(rng.choice(shown)), self._frames - 1
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
        size = fitted_size(clip.frames.shape[1:3], self._scale, self._canvas)
        flip = rng.random() < self._flip
        out = self.columns()
        out.update(size=np.array(size, np.int32), name=f"{clip.dataset}/{clip.name}")
        out["source_index"][:] = clip.source_index
        count = len(chosen)
        out["classes"][:count] = clip.classes[chosen]
        for t, frame in enumerate(clip.frames):
            out["frames"][t, : size[0], : size[1]] = _resized(frame, size, cv2.INTER_LINEAR, flip)
            for n, k in enumerate(chosen):
                mask = clip.masks[t, k].astype(np.uint8)
                mask = _resized(mask, size, cv2.INTER_NEAREST, flip)
                out["masks"][t, n, : size[0], : size[1]] = mask > 0
        boxes = _scaled(clip.boxes[:, chosen], clip.frames.shape[1:3], size, flip)
        large = np.all(boxes[..., 2:] - boxes[..., :2] >= 1, axis=-1)
        out["valid"][:, :count] = clip.valid[:, chosen] & large
        out["boxes"][:, :count] = np.where(out["valid"][:, :count, None], boxes, 0)
        return out


def fitted_size(
    size: tuple[int, int], scale: tuple[int, int], canvas: tuple[int, int]
) -> tuple[int, int]:
    """(height, width) of a frame of `size` that fits into long and short sides, and the canvas.

    The factor is that of mmdet 0.x, and so is the rounding; a portrait frame on a landscape canvas
    is smaller.
    """
    height, width = size
    factor = min(max(scale) / max(height, width), min(scale) / min(height, width))
    factor = min(factor, canvas[0] / height, canvas[1] / width)
    return int(height * factor + 0.5), int(width * factor + 0.5)


def instance_videos(source: Source) -> list[InstanceVideo]:
    """The videos of a source with their own masks; ValueError for one that has label maps alone."""
    if not all(isinstance(video, PaintedVideo) for video in source.videos):
        raise ValueError(
            f"source {source.name}: expected videos or images with instances and classes, such as"
            " of kind youtube_vis, coco, polygons or synthetic_vis, found label maps"
        )
    return [video.source for video in source.videos]


def _with_objects(source: Source) -> list[InstanceVideo]:
    """The videos that show an object; whether one does is known without its pixels."""
    videos = [v for v in instance_videos(source) if (v.valid & ~v.crowd).any()]
    if not videos:
        raise ValueError(f"source {source.name}: no video shows an object to train on")
    return videos


def _chosen(clip: InstanceClip, key: int, slots: int, rng: np.random.Generator) -> np.ndarray:
    """Numbers of up to `slots` instances that are seen, those of the key frame first."""
    order = rng.permutation(len(clip.ids))
    seen = clip.valid.any(axis=0) & ~clip.crowd
    order = order[seen[order]]
    return np.sort(order[np.argsort(~clip.valid[key, order], kind="stable")][:slots])


def _resized(image: np.ndarray, size: tuple[int, int], how: int, flip: bool) -> np.ndarray:
    if image.shape[:2] != size:
        image = cv2.resize(image, size[::-1], interpolation=how)
    return image[:, ::-1] if flip else image


def _scaled(
    boxes: np.ndarray, before: tuple[int, int], after: tuple[int, int], flip: bool
) -> np.ndarray:
    """Boxes [..., 4] of frames of size `before` in those of size `after`, cut at their borders."""
    y, x = after[0] / before[0], after[1] / before[1]
    boxes = boxes * np.float32([x, y, x, y])
    if flip:
        boxes = boxes[..., [2, 1, 0, 3]] * np.float32([-1, 1, -1, 1])
        boxes = boxes + np.float32([after[1], 0, after[1], 0])
    return np.clip(boxes, 0, np.float32([after[1], after[0]] * 2))
