"""An annotated video in two views: `Video` reads pixels on request, `Clip` holds them in memory.

T frames, K objects, H W image size. Masks are uint8 label maps: 0 background, 255 void, everything
else an object id of the video. Ids need not be contiguous (YouTube-VOS).
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property

import numpy as np

VOID = 255


def pixel_counts(labels: np.ndarray) -> np.ndarray:
    """How many pixels of a label map (uint8) have the value 0, 1, ... 255, int [256].

    What np.bincount counts, but where eight pixels in a row agree, as most do, they are counted at
    once.
    """
    pixels = np.ascontiguousarray(labels).reshape(-1)
    whole = len(pixels) - len(pixels) % 8
    eights = pixels[:whole].view(np.int64)
    first = eights & 0xFF
    agree = eights == first * 0x0101010101010101
    counts = 8 * np.bincount(first[agree], minlength=256)
    for others in (eights[~agree].view(np.uint8), pixels[whole:]):
        counts += np.bincount(others, minlength=256)
    return counts


def object_ids(labels: np.ndarray) -> list[int]:
    """The object ids in a label map, ascending, without background and void."""
    return [int(i) for i in np.unique(labels) if i not in (0, VOID)]


@dataclass(frozen=True)
class Objects:
    """What is known about the K objects of a video with T frames.

    ids: int [K]. given: bool [T, K], the mask of object k is handed to the model at frame t.
    scored: bool [T, K], object k counts in the score of frame t. categories: K names or None.
    original_size: (H, W) of the frames on disk.
    """

    ids: np.ndarray
    given: np.ndarray
    scored: np.ndarray
    categories: list[str] | None
    original_size: tuple[int, int]


@dataclass(frozen=True)
class Clip:
    """A video, or some frames of it, in memory.

    frames: uint8 [T, H, W, 3] RGB. masks: uint8 [T, H, W], all 0 where there is no annotation.
    source_index: int [T], index of each frame in the original video. The other fields are those of
    `Objects`, restricted to the frames at hand.
    """

    name: str
    dataset: str
    frames: np.ndarray
    masks: np.ndarray
    frame_names: list[str]
    source_index: np.ndarray
    ids: np.ndarray
    given: np.ndarray
    scored: np.ndarray
    categories: list[str] | None
    original_size: tuple[int, int]


class Video:
    """An annotated video that reads its pixels only when asked.

    frame_names: T stems. mask_files: for every frame where its mask comes from (a path, used in
    messages), or None where there is no annotation: such a frame is never scored. Objects are
    described on first use, because that may need the first mask.
    """

    def __init__(
        self,
        name: str,
        dataset: str,
        frame_names: Sequence[str],
        mask_files: Sequence[str | None],
        load_frame: Callable[[int], np.ndarray],
        load_mask: Callable[[int], np.ndarray],
        describe: Callable[[], Objects],
    ):
        if len(frame_names) != len(mask_files):
            raise ValueError(
                f"{dataset}/{name}: {len(frame_names)} frame names but {len(mask_files)} masks"
            )
        self.name = name
        self.dataset = dataset
        self.frame_names = list(frame_names)
        self.mask_files = list(mask_files)
        self.annotated = np.array([file is not None for file in mask_files], bool)
        self._load_frame = load_frame
        self._load_mask = load_mask
        self._describe = describe

    def __len__(self) -> int:
        return len(self.frame_names)

    def __repr__(self) -> str:
        return f"Video({self.dataset}/{self.name}, {len(self)} frames)"

    @cached_property
    def objects(self) -> Objects:
        facts = self._describe()
        return replace(facts, scored=facts.scored & self.annotated[:, None])

    @property
    def ids(self) -> np.ndarray:
        return self.objects.ids

    @property
    def given(self) -> np.ndarray:
        return self.objects.given

    @property
    def scored(self) -> np.ndarray:
        return self.objects.scored

    @property
    def categories(self) -> list[str] | None:
        return self.objects.categories

    @property
    def original_size(self) -> tuple[int, int]:
        return self.objects.original_size

    def frame(self, t: int) -> np.ndarray:
        """uint8 [H, W, 3] RGB of frame t, 0 <= t < T."""
        return self._load_frame(self._checked(t))

    def mask(self, t: int) -> np.ndarray:
        """uint8 [H, W] label map of frame t; ValueError where the frame has no annotation."""
        t = self._checked(t)
        if not self.annotated[t]:
            raise ValueError(
                f"{self.dataset}/{self.name}: frame {self.frame_names[t]} has no mask;"
                " `annotated` says which frames do"
            )
        return self._load_mask(t)

    def with_masks_kept(self) -> "Video":
        """This video with every mask that was asked for in memory: to make one clip of it."""
        kept = copy.copy(self)
        kept._load_mask = cache(self._load_mask)
        kept._describe = lambda: self.objects  # which are described once for all clips
        return kept

    def clip(self, indices: Sequence[int] | None = None) -> Clip:
        """Read the frames at `indices` (default: all) into a Clip; missing masks are all 0."""
        if indices is None:
            indices = range(len(self))
        index = np.array([self._checked(int(t)) for t in indices], np.int32)
        frame = cache(self.frame)  # a frame that comes several times is decoded once
        frames = [frame(t) for t in index.tolist()]
        size = frames[0].shape[:2]
        masks, mask = np.zeros((len(index), *size), np.uint8), cache(self.mask)
        for row, t in enumerate(index.tolist()):
            self._check_size("frame " + self.frame_names[t], frames[row].shape[:2], size)
            if self.annotated[t]:
                self._check_size(f"mask {self.mask_files[t]}", mask(t).shape, size)
                masks[row] = mask(t)
        return Clip(
            name=self.name,
            dataset=self.dataset,
            frames=np.stack(frames),
            masks=masks,
            frame_names=[self.frame_names[t] for t in index],
            source_index=index,
            ids=self.ids,
            given=self.given[index],
            scored=self.scored[index],
            categories=self.categories,
            original_size=self.original_size,
        )

    def _check_size(self, what: str, found: tuple, expected: tuple) -> None:
        if found != expected:
            raise ValueError(
                f"{self.dataset}/{self.name}: {what} is {found[0]}x{found[1]} (height x width),"
                f" expected {expected[0]}x{expected[1]} as the first frame of the clip; frames and"
                " masks of a video must have one size (masks of another resolution?)"
            )

    def _checked(self, t: int) -> int:
        if not 0 <= t < len(self):
            raise ValueError(
                f"{self.dataset}/{self.name}: frame index {t} is outside 0..{len(self) - 1}"
            )
        return int(t)


def first_frame_objects(first_mask: np.ndarray, num_frames: int) -> Objects:
    """Objects are the ids in frame 0, given there, scored in frames 1..T-2 as in DAVIS.

    first_mask: uint8 [H, W]. Dropping the first and the last frame is what the official
    evaluation of DAVIS 2016 and 2017 does (davis2017/evaluation.py).
    """
    ids = np.array(object_ids(first_mask), np.int32)
    given = np.zeros((num_frames, len(ids)), bool)
    given[0] = True
    scored = np.zeros((num_frames, len(ids)), bool)
    scored[1 : num_frames - 1] = True
    return Objects(ids, given, scored, None, first_mask.shape)
