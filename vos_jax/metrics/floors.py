"""Floors that a segmentation model must clear: copying masks and RGB nearest neighbour.

They work frame by frame with the interface of the streaming segmenter, `step(frame, labels)`, so
that a comparison hands the same frames and given labels to them as to a model. Nothing is learned
and everything is exact, which makes them a measure of how hard a set of clips is. For a model that
finds its objects without masks the floors are one label everywhere: nothing, or the whole frame.
"""

import numpy as np
from scipy.spatial import cKDTree

from vos_jax.data.clip import object_ids

_COLOURS = 256**3


class CopyMask:
    """Every object stays where its given mask put it."""

    def __init__(self) -> None:
        self._labels: np.ndarray | None = None

    def step(self, frame: np.ndarray, labels: np.ndarray | None = None) -> np.ndarray:
        """Label map uint8 [H, W] of a frame [H, W, 3]; labels: given with it, likewise, or None."""
        if self._labels is None:
            self._labels = np.zeros(frame.shape[:2], np.uint8)
        if labels is not None:
            self._labels = paste(self._labels, labels)
        return self._labels.copy()


class Constant:
    """Every pixel of every frame has one label."""

    def __init__(self, label: int) -> None:
        self._label = label

    def step(self, frame: np.ndarray) -> np.ndarray:
        """Label map uint8 [H, W] of a frame [H, W, 3]."""
        return np.full(frame.shape[:2], self._label, np.uint8)


class NearestColour:
    """Every pixel takes the label of the nearest RGB colour among the pixels of the given masks.

    Distance is Euclidean in uint8 RGB; among equally near colours the lowest label wins. The first
    given frame also teaches the background; later ones only their objects. A table remembers the
    answer of every colour met, so that a frame costs a search for its new colours alone.
    """

    def __init__(self) -> None:
        self._samples: dict[int, np.ndarray] = {}  # label -> sorted colour codes
        self._trees: dict[int, cKDTree] = {}
        self._known = np.zeros(_COLOURS, bool)
        self._answer = np.zeros(_COLOURS, np.uint8)

    def step(self, frame: np.ndarray, labels: np.ndarray | None = None) -> np.ndarray:
        """Label map uint8 [H, W] of a frame uint8 [H, W, 3]; before any label is given all zero."""
        codes = _colour_codes(frame)
        if labels is not None:
            self._learn(codes, labels)
        if not self._samples:
            return np.zeros(codes.shape, np.uint8)
        fresh = np.unique(codes[~self._known[codes]])
        if fresh.size:
            self._answer[fresh] = self._search(fresh)
            self._known[fresh] = True
        found = self._answer[codes]
        return found if labels is None else paste(found, labels)

    def _learn(self, codes: np.ndarray, labels: np.ndarray) -> None:
        taught = object_ids(labels)
        if not self._samples and (labels == 0).any():
            taught.append(0)
        for label in taught:
            seen = np.unique(codes[labels == label])
            seen = np.union1d(self._samples.get(label, seen), seen)
            self._samples[label] = seen
            self._trees[label] = cKDTree(_rgb(seen))
        self._known[:] = False

    def _search(self, codes: np.ndarray) -> np.ndarray:
        points = _rgb(codes)
        answer = np.zeros(len(codes), np.uint8)
        nearest = np.full(len(codes), np.inf)
        for label in sorted(self._trees):
            for open_ in _by_distance(nearest):
                # A bound spares most of the search; 0.5 is far more than its rounding.
                bound = np.sqrt(nearest[open_].max()) + 0.5
                distance, _ = self._trees[label].query(points[open_], distance_upper_bound=bound)
                # Squared distances are integers: rounding makes ties exact.
                squared = np.rint(distance**2)
                closer = squared < nearest[open_]
                answer[open_[closer]] = label
                nearest[open_[closer]] = squared[closer]
        return answer


def _by_distance(nearest: np.ndarray) -> list[np.ndarray]:
    """Points that a new label may still win, in groups of about one squared distance `nearest`.

    Nothing is nearer than an equal colour.
    """
    groups = np.frexp(np.minimum(nearest, _COLOURS))[1]
    groups[nearest == 0] = 0
    return [np.flatnonzero(groups == g) for g in np.unique(groups[groups > 0])]


def given_labels(mask: np.ndarray, ids: np.ndarray, given: np.ndarray) -> np.ndarray | None:
    """The part of a frame's mask that is handed out.

    Args:
        mask: uint8 [H, W] full annotation of the frame.
        ids: int [K] the video's object ids.
        given: bool [K] which of them are given at this frame.

    Returns:
        uint8 [H, W] with only the given ids, or None when none is given.
    """
    if not np.any(given):
        return None
    table = np.zeros(256, np.uint8)
    chosen = np.asarray(ids)[np.asarray(given, bool)]
    table[chosen] = chosen
    return table[mask]


def paste(labels: np.ndarray, given: np.ndarray) -> np.ndarray:
    """`labels` uint8 [H, W] with the objects of `given`, likewise, moved to where that has them."""
    table = np.arange(256, dtype=np.uint8)
    table[np.unique(given)] = 0
    return np.where(given > 0, given, table[labels]).astype(np.uint8)


def _colour_codes(frame: np.ndarray) -> np.ndarray:
    """One integer per pixel: R * 65536 + G * 256 + B."""
    rgb = frame.astype(np.int32)
    return (rgb[..., 0] << 16) | (rgb[..., 1] << 8) | rgb[..., 2]


def _rgb(codes: np.ndarray) -> np.ndarray:
    return np.stack([codes >> 16, (codes >> 8) & 255, codes & 255], axis=-1).astype(np.float64)
