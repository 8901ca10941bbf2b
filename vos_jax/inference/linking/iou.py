"""Linking by the overlap of boxes in consecutive frames, the least that a tracker can do."""

import numpy as np

from vos_jax.inference.linking.base import Found, Linker, best_pairs, box_overlaps


class BoxLinker(Linker):
    """A detection is the object of its class whose last box it overlaps most.

    least: overlap that a pair must exceed. patience: frames without a detection that an object
    survives, 0: only the frame before counts.
    """

    def __init__(self, least: float = 0.1, patience: int = 0):
        super().__init__()
        self._least, self._patience = least, patience
        self._boxes, self._classes = np.zeros((0, 4)), np.zeros(0, int)
        self._ids, self._unseen = np.zeros(0, int), np.zeros(0, int)

    def identify(self, frame: np.ndarray, found: Found) -> np.ndarray:
        same = found.classes[:, None] == self._classes
        pairs = best_pairs(box_overlaps(found.boxes, self._boxes) * same, self._least)
        ids = np.full(len(found), -1)
        for d, m in pairs:
            ids[d] = self._ids[m]
        ids[ids < 0] = self.new_ids(int((ids < 0).sum()))
        kept = np.ones(len(self._ids), bool)
        kept[[m for _, m in pairs]] = False
        kept &= self._unseen < self._patience
        self._boxes = np.concatenate([found.boxes, self._boxes[kept]])
        self._classes = np.concatenate([found.classes, self._classes[kept]])
        self._unseen = np.concatenate([np.zeros(len(found), int), self._unseen[kept] + 1])
        self._ids = np.concatenate([ids, self._ids[kept]])
        return ids
