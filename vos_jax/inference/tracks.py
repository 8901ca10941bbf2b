"""Detections with identities, frame by frame, become the tracks of a video.

A track has the masks of its identity, one score and one class. MaskTrack R-CNN takes the mean of
the frames' scores and the class that most of them have, the lowest of equals ("majority");
MaskProp takes the mean of the probabilities and their best class with its probability ("mean").
Where an identity comes twice in one frame, the later detection counts, as in the official results
of MaskTrack R-CNN. A mask that was filled in has no part in score and class. Masks are kept as run
lengths, so that a long video takes little memory.
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from vos_jax.data.rle import RLE
from vos_jax.data.track_files import Track
from vos_jax.inference.linking.base import DROPPED, Found, Linked, Linker

AGGREGATES = ("majority", "mean")


class Tracks:
    """Collects the linked frames of one video.

    aggregate: see above; "mean" needs detections with probabilities.
    """

    def __init__(self, aggregate: str = "majority"):
        if aggregate not in AGGREGATES:
            raise ValueError(f"expected aggregate to be one of {AGGREGATES}, got {aggregate!r}")
        self._aggregate = aggregate
        self._frames: list[dict[int, tuple[RLE, float, int, np.ndarray | None]]] = []
        self._filled: list[Mapping[int, RLE]] = []  # of the same frames

    def add(self, linked: Sequence[Linked]) -> None:
        """Take what a linker gives: the next frames of the video."""
        for one in linked:
            found = one.found
            probabilities = found.probabilities
            if probabilities is None:
                if self._aggregate == "mean" and len(found):
                    raise ValueError("aggregate 'mean' needs detections with probabilities")
                probabilities = [None] * len(found)
            rows = zip(found.rles, found.scores, found.classes, probabilities, strict=True)
            self._frames.append(
                {
                    int(i): (rle, float(score), int(c), p)
                    for i, (rle, score, c, p) in zip(one.ids, rows, strict=True)
                    if i != DROPPED
                }
            )
            self._filled.append(one.filled)

    def tracks(self, category_ids: Sequence[int] | None = None) -> list[Track]:
        """The tracks in the order of their identities, which is that of first appearance.

        category_ids: numbers that results have for class 1, 2, ...; None: these themselves.
        """
        known = sorted(set().union(*self._frames))
        return [self._track(i, category_ids) for i in known]

    def _track(self, identity: int, category_ids: Sequence[int] | None) -> Track:
        entries = [frame.get(identity) for frame in self._frames]
        pairs = zip(entries, self._filled, strict=True)
        rles = [entry[0] if entry else filled.get(identity) for entry, filled in pairs]
        _, scores, classes, probabilities = zip(*filter(None, entries), strict=True)
        if self._aggregate == "majority":
            number, score = int(np.bincount(classes).argmax()), float(np.mean(scores))
        else:
            mean = np.mean(probabilities, axis=0)[1:]
            number, score = int(mean.argmax()) + 1, float(mean.max())
        category = number if category_ids is None else category_ids[number - 1]
        return Track.found(category, rles, score)


def link(
    detected: Iterable[tuple[np.ndarray, Found]],
    linkers: Mapping[str, Linker],
    *,
    aggregate: str = "majority",
    category_ids: Sequence[int] | None = None,
) -> dict[str, list[Track]]:
    """The tracks of one video by every linker, on one pass of a detector.

    detected: frames uint8 [H, W, 3] RGB in their order, with what was found in each. linkers: by
    name, new ones. aggregate, category_ids: see `Tracks`.
    """
    tracks = {name: Tracks(aggregate) for name in linkers}
    for frame, found in detected:
        for name, linker in linkers.items():
            tracks[name].add(linker.step(frame, found))
    for name, linker in linkers.items():
        tracks[name].add(linker.finish())
    return {name: of_linker.tracks(category_ids) for name, of_linker in tracks.items()}
