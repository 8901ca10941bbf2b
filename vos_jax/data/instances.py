"""Annotated instances in a video: `InstanceVideo` reads pixels on request, `InstanceClip` holds
them in memory.

Unlike the label maps of `vos_jax.data.clip`, the masks of instances may overlap, each instance has
a class, and none is given to the model. An image is a video of one frame.

Glossary: T frames, N instances (tracks) of the video, H W image size. Classes count from 1 in the
order of the data set's categories; 0 is left to the background. Boxes are continuous corners
x1 y1 x2 y2 in pixels: a mask of one pixel has the box x, y, x + 1, y + 1.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np

from vos_jax.data.rle import RLE, boxes, decode


@dataclass(frozen=True)
class Instances:
    """What is known about the N instances of a video without its pixels.

    ids: int32 [N]. classes: int32 [N] from 1. crowd: bool [N], stands for many objects that nobody
    told apart. valid: bool [T, N], the instance has a mask in that frame. categories: their names;
    class k is categories[k - 1]. original_size: (H, W) of the frames. boxes: float32 [T, N, 4]
    where the annotation gives them, None: those around the masks.
    """

    ids: np.ndarray
    classes: np.ndarray
    crowd: np.ndarray
    valid: np.ndarray
    categories: list[str]
    original_size: tuple[int, int]
    boxes: np.ndarray | None = None


@dataclass(frozen=True)
class InstanceClip:
    """A video with instances, or some frames of it, in memory.

    frames: uint8 [T, H, W, 3] RGB. masks: bool [T, N, H, W]. boxes: float32 [T, N, 4], 0 where the
    instance is absent. source_index: int32 [T], index of each frame in the original video. The
    other fields are those of `Instances`, `valid` restricted to the frames at hand.
    """

    name: str
    dataset: str
    frames: np.ndarray
    masks: np.ndarray
    boxes: np.ndarray
    classes: np.ndarray
    ids: np.ndarray
    valid: np.ndarray
    crowd: np.ndarray
    frame_names: list[str]
    source_index: np.ndarray
    categories: list[str]
    original_size: tuple[int, int]


class InstanceVideo:
    """A video with annotated instances that reads its pixels only when asked.

    frame_names: T stems. load_frame: uint8 [H, W, 3] RGB of frame t. load_rles: of frame t one RLE
    or None for each instance. describe: called once, on first use. annotated: False where the
    truth is withheld; such a video has no instances. video_id: its number in the annotation file.
    category_ids: of class k, category_ids[k - 1] is the number in that file; None: k itself.
    """

    def __init__(
        self,
        name: str,
        dataset: str,
        frame_names: Sequence[str],
        load_frame: Callable[[int], np.ndarray],
        load_rles: Callable[[int], list[RLE | None]],
        describe: Callable[[], Instances],
        *,
        annotated: bool = True,
        video_id: int = 1,
        category_ids: Sequence[int] | None = None,
    ):
        self.name = name
        self.dataset = dataset
        self.frame_names = list(frame_names)
        self.annotated = annotated
        self.video_id = video_id
        self._load_frame = load_frame
        self._load_rles = load_rles
        self._describe = describe
        self._category_ids = category_ids

    def __len__(self) -> int:
        return len(self.frame_names)

    def __repr__(self) -> str:
        return f"InstanceVideo({self.dataset}/{self.name}, {len(self)} frames)"

    @cached_property
    def instances(self) -> Instances:
        facts = self._describe()
        if facts.valid.shape != (len(self), len(facts.ids)):
            raise ValueError(
                f"{self.dataset}/{self.name}: {len(self)} frames and {len(facts.ids)} instances,"
                f" but valid is of shape {facts.valid.shape}"
            )
        return facts

    @property
    def ids(self) -> np.ndarray:
        return self.instances.ids

    @property
    def classes(self) -> np.ndarray:
        return self.instances.classes

    @property
    def crowd(self) -> np.ndarray:
        return self.instances.crowd

    @property
    def valid(self) -> np.ndarray:
        return self.instances.valid

    @property
    def categories(self) -> list[str]:
        return self.instances.categories

    @property
    def original_size(self) -> tuple[int, int]:
        return self.instances.original_size

    @property
    def category_ids(self) -> list[int]:
        """The numbers that the annotation file, and so a result for it, has for classes 1, 2..."""
        return list(self._category_ids or range(1, len(self.categories) + 1))

    def frame(self, t: int) -> np.ndarray:
        """uint8 [H, W, 3] RGB of frame t, 0 <= t < T."""
        return self._load_frame(self._checked(t))

    def rles(self, t: int) -> list[RLE | None]:
        """The masks of frame t as N RLEs, None where the instance is absent."""
        t = self._checked(t)
        valid = self.valid[t]
        return [rle if there else None for rle, there in zip(self._rles(t), valid, strict=True)]

    def masks(self, t: int) -> np.ndarray:
        """The masks of frame t, bool [N, H, W]."""
        return decode(self.rles(t), self.original_size)

    def boxes(self, t: int) -> np.ndarray:
        """The boxes of frame t, float32 [N, 4]; 0 where the instance is absent."""
        if self.instances.boxes is None:
            return boxes(self.rles(t))
        return np.where(self.valid[self._checked(t), :, None], self.instances.boxes[t], 0)

    def clip(self, indices: Sequence[int] | None = None) -> InstanceClip:
        """Read the frames at `indices` (default: all) into an InstanceClip."""
        if indices is None:
            indices = range(len(self))
        index = np.array([self._checked(int(t)) for t in indices], np.int32)
        frame, masks = cache(self._sized_frame), cache(self.masks)  # each is read once
        times = index.tolist()
        return InstanceClip(
            name=self.name,
            dataset=self.dataset,
            frames=np.stack([frame(t) for t in times]),
            masks=np.stack([masks(t) for t in times]),
            boxes=np.stack([self.boxes(t) for t in times]),
            classes=self.classes,
            ids=self.ids,
            valid=self.valid[index],
            crowd=self.crowd,
            frame_names=[self.frame_names[t] for t in times],
            source_index=index,
            categories=self.categories,
            original_size=self.original_size,
        )

    def _rles(self, t: int) -> list[RLE | None]:
        rles = self._load_rles(t)
        sizes = {tuple(rle["size"]) for rle in rles if rle is not None}
        if not sizes <= {tuple(self.original_size)}:
            raise ValueError(
                f"{self.dataset}/{self.name}: frame {self.frame_names[t]} has masks of sizes"
                f" {sorted(sizes)} (height, width), expected {tuple(self.original_size)}"
            )
        return rles

    def _sized_frame(self, t: int) -> np.ndarray:
        image = self.frame(t)
        height, width = self.original_size
        if image.shape[:2] != (height, width):
            raise ValueError(
                f"{self.dataset}/{self.name}: frame {self.frame_names[t]} is"
                f" {image.shape[0]}x{image.shape[1]} (height x width), its annotation is for"
                f" {height}x{width}; take the frames that were annotated, of that size"
            )
        return image

    def _checked(self, t: int) -> int:
        if not 0 <= t < len(self):
            raise ValueError(
                f"{self.dataset}/{self.name}: frame index {t} is outside 0..{len(self) - 1}"
            )
        return int(t)


def require_truth(videos: Sequence[InstanceVideo]) -> None:
    """Raises ValueError where the annotations of a video are withheld: nothing can be compared."""
    withheld = [video for video in videos if not video.annotated]
    if withheld:
        raise ValueError(
            f"{withheld[0].dataset}: the annotations of {len(withheld)} videos are withheld, the"
            f" first is {withheld[0].name}; they can be segmented, but not trained on or scored."
            " Hold a part of the training videos back for that (part), or have the data set's"
            " server score a results.json"
        )
