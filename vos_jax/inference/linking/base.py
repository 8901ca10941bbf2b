"""What every linker takes and gives, and the linker that links nothing.

A linker sees the frames of one video in turn, with what a detector found in each, and gives every
detection an identity. Identities count from 0 in the order of first appearance, best detection of a
frame first; one that ended never returns. Linkers are plain numpy on the host, so that several can
follow one pass of a detector.

Glossary: D detections of a frame, M objects met before.
"""

import abc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from vos_jax.data.rle import RLE, decode

DROPPED = -1  # identity of a detection that goes into no track


@dataclass(frozen=True)
class Found:
    """The detections of one frame.

    boxes: float32 [D, 4] continuous corners x1 y1 x2 y2 in pixels of the frame. scores: float32
    [D]. classes: int32 [D] from 1. rles: D masks. size: (H, W) of the frame. features: float32
    [D, E] of what the objects look like, for linkers that ask for them. probabilities: float32
    [D, K + 1] of the classes, background first, where the detector has them.
    """

    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray
    rles: Sequence[RLE]
    size: tuple[int, int]
    features: np.ndarray | None = None
    probabilities: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.scores)

    def masks(self) -> np.ndarray:
        """bool [D, H, W]."""
        return decode(self.rles, self.size)


@dataclass(frozen=True)
class Linked:
    """The detections of one frame with their identities, int [D]; DROPPED for none.

    filled: masks of identities that were not detected in it.
    """

    found: Found
    ids: np.ndarray
    filled: Mapping[int, RLE] = field(default_factory=dict)


class Linker(abc.ABC):
    """Base of the linkers that decide at once; new for every video."""

    def __init__(self):
        self._next = 0

    def step(self, frame: np.ndarray, found: Found) -> list[Linked]:
        """The next frame, uint8 [H, W, 3] RGB: the frames that are decided now, in their order."""
        return [Linked(found, self.identify(frame, found))]

    def finish(self) -> list[Linked]:
        """After the last frame: the frames that were not decided yet."""
        return []

    @abc.abstractmethod
    def identify(self, frame: np.ndarray, found: Found) -> np.ndarray:
        """Identities of the detections, int [D]."""

    def new_ids(self, count: int) -> np.ndarray:
        """The next identities, int [count]."""
        self._next += count
        return np.arange(self._next - count, self._next)


class NoLinker(Linker):
    """Every detection is a track of its own, the best of a frame first."""

    def identify(self, frame: np.ndarray, found: Found) -> np.ndarray:
        ids = np.empty(len(found), int)
        ids[np.argsort(-found.scores, kind="stable")] = self.new_ids(len(found))
        return ids


def best_pairs(worth: np.ndarray, least: float) -> list[tuple[int, int]]:
    """Pairs (d, m) one to one, the highest of worth [D, M] first, above `least`.

    Of equal ones, the first row and then the first column.
    """
    pairs, left = [], np.where(worth > least, worth, -np.inf)
    while left.size and np.isfinite(left.max()):
        d, m = np.unravel_index(left.argmax(), left.shape)
        pairs.append((int(d), int(m)))
        left[d], left[:, m] = -np.inf, -np.inf
    return pairs


def box_overlaps(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union of boxes [D, 4] and [M, 4], float64 [D, M]; 0 for empty boxes."""
    a, b = np.asarray(a, np.float64)[:, None], np.asarray(b, np.float64)[None]
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    common = np.prod(np.clip(sides, 0, None), axis=-1)
    areas = [np.prod(np.clip(x[..., 2:] - x[..., :2], 0, None), axis=-1) for x in (a, b)]
    return common / np.maximum(areas[0] + areas[1] - common, 1e-9)


def mask_overlaps(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union of masks bool [D, H, W] and [M, H, W], float64 [D, M]."""
    a, b = (x.reshape(len(x), -1).astype(np.float32) for x in (a, b))
    common = a @ b.T  # sums of less than 2^24 ones are exact
    return common / np.maximum(a.sum(1)[:, None] + b.sum(1)[None] - common, 1)
