"""Linking by a system that propagates masks, such as FEELVOS (second row of MaskTrack's table).

The system follows every object that was met; a detection is the object whose propagated mask it
overlaps most, and one that is none is handed over as a new object. Detections correct no object
that is known: each such correction would add a reference frame.
"""

import numpy as np

from vos_jax.data.clip import object_ids
from vos_jax.inference.linking.base import Found, Linker, best_pairs, mask_overlaps
from vos_jax.inference.streaming import VideoSegmenter

MOST_OBJECTS = 254  # of a label map


class PropagationLinker(Linker):
    """Follows objects with a VideoSegmenter of a system that takes given masks.

    least: overlap of a detection with a propagated mask that a pair must exceed. references: frames
    with new objects that the memory may hold; a further one begins the memory anew with the
    detections of its frame, and what is not seen in that frame is forgotten.
    """

    def __init__(self, segmenter: VideoSegmenter, least: float = 0.3, references: int = 8):
        super().__init__()
        segmenter.reset()
        self._segmenter, self._least, self._most_references = segmenter, least, references
        self._references = 0
        self._ids: list[int] = []  # identity of label 1, 2, ...
        self._classes: list[int] = []

    def identify(self, frame: np.ndarray, found: Found) -> np.ndarray:
        ids, masks = np.full(len(found), -1), found.masks()
        if self._ids:
            labels = self._segmenter.step(frame)
            propagated = labels == np.arange(1, len(self._ids) + 1)[:, None, None]
            same = found.classes[:, None] == np.array(self._classes)
            for d, m in best_pairs(mask_overlaps(masks, propagated) * same, self._least):
                ids[d] = self._ids[m]
        new = np.flatnonzero(ids < 0)
        ids[new] = self.new_ids(len(new))
        if len(new):
            self._introduce(frame, found, masks, ids, new)
        return ids

    def _introduce(
        self,
        frame: np.ndarray,
        found: Found,
        masks: np.ndarray,
        ids: np.ndarray,
        new: np.ndarray,
    ) -> None:
        full = len(self._ids) + len(new) > MOST_OBJECTS
        if full or self._references == self._most_references:
            self._segmenter.reset()
            self._ids, self._classes, self._references = [], [], 0
            new = np.arange(len(found))[:MOST_OBJECTS]
        first = len(self._ids) + 1
        labels = painted(masks[new], found.scores[new], first)
        if not object_ids(labels):
            return  # empty masks
        self._segmenter.step(frame, labels)
        self._ids += ids[new].tolist()
        self._classes += found.classes[new].tolist()
        self._references += 1


def painted(masks: np.ndarray, scores: np.ndarray, first: int) -> np.ndarray:
    """A label map uint8 [H, W] of masks bool [N, H, W], the best on top; the labels are first + n.

    Labels of a mask that others hide altogether do not occur in it.
    """
    labels = np.zeros(masks.shape[1:], np.uint8)
    for n in np.argsort(scores, kind="stable"):
        labels[masks[n]] = first + n
    return labels
