"""DeepSORT: where an object should be, and what it looked like (Wojke, Bewley, Paulus 2017).

Objects that were seen last are matched first (the paper's cascade): by the smallest cosine distance
to any of the features an object had, among detections that a Kalman filter thinks possible and that
have its class. Objects of the frame before that found nothing are then matched by the overlap of
boxes. Constants: nwojke/deep_sort.

Deviations: an object is reported from its first frame on (there from its third: short videos at 6
frames a second have no frames to lose), and only detections of its class match it (there is one
class). Features are the detector's: float32 [D, E], of any length.
"""

from dataclasses import dataclass, field

import numpy as np
from scipy.optimize import linear_sum_assignment

from vos_jax.inference.linking.base import Found, Linker, box_overlaps
from vos_jax.inference.linking.kalman import GATE, Kalman, measured

NEVER = 1e5  # cost of a pair that must not be


@dataclass
class _Object:
    id: int
    category: int
    filter: Kalman
    features: list[np.ndarray] = field(default_factory=list)
    unseen: int = 0  # frames since it was detected


class DeepSort(Linker):
    """Kalman filters and features.

    distance: largest cosine distance of a match. overlap: smallest overlap of boxes of a match by
    boxes. patience: frames without a detection that an object survives. remembered: features that
    an object keeps, the latest.
    """

    def __init__(
        self,
        distance: float = 0.2,
        overlap: float = 0.3,
        patience: int = 30,
        remembered: int = 100,
    ):
        super().__init__()
        self._distance, self._overlap = distance, overlap
        self._patience, self._remembered = patience, remembered
        self._objects: list[_Object] = []

    def identify(self, frame: np.ndarray, found: Found) -> np.ndarray:
        if found.features is None:
            raise ValueError("deepsort compares features, and the detections have none")
        features = np.asarray(found.features, np.float64)
        features = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
        z = measured(found.boxes)
        for known in self._objects:
            known.filter.predict()
            known.unseen += 1
        owner = self._matched(found, z, features)
        for d in np.flatnonzero(np.array([o is None for o in owner], bool)):
            (number,) = self.new_ids(1)
            owner[d] = _Object(int(number), int(found.classes[d]), Kalman(z[d]))
            self._objects.append(owner[d])
        for d, known in enumerate(owner):
            if known.features:  # a new filter starts at its measurement
                known.filter.update(z[d])
            known.unseen = 0
            known.features = [*known.features, features[d]][-self._remembered :]
        self._objects = [o for o in self._objects if o.unseen <= self._patience]
        return np.array([known.id for known in owner], int)

    def _matched(self, found: Found, z: np.ndarray, features: np.ndarray) -> list[_Object | None]:
        owner: list[_Object | None] = [None] * len(found)
        for age in sorted({known.unseen for known in self._objects}):
            objects = [known for known in self._objects if known.unseen == age]
            cost = np.full((len(objects), len(found)), NEVER)
            for m, known in enumerate(objects):
                distances = 1 - (np.stack(known.features) @ features.T).max(axis=0)
                possible = (known.filter.distances(z) <= GATE) & (distances <= self._distance)
                cost[m] = np.where(possible & self._free(owner, found, known), distances, NEVER)
            _assign(owner, objects, cost)
        last = [o for o in self._objects if o.unseen == 1 and not any(o is x for x in owner)]
        cost = np.full((len(last), len(found)), NEVER)
        for m, known in enumerate(last):
            overlaps = box_overlaps(known.filter.box[None], found.boxes)[0]
            possible = (overlaps >= self._overlap) & self._free(owner, found, known)
            cost[m] = np.where(possible, 1 - overlaps, NEVER)
        _assign(owner, last, cost)
        return owner

    @staticmethod
    def _free(owner: list[_Object | None], found: Found, known: _Object) -> np.ndarray:
        """bool [D]: detections of the object's class that no other has."""
        return np.array([o is None for o in owner], bool) & (found.classes == known.category)


def _assign(owner: list[_Object | None], objects: list[_Object], cost: np.ndarray) -> None:
    """Give objects the detections that cost least together."""
    for m, d in zip(*linear_sum_assignment(cost), strict=True):
        if cost[m, d] < NEVER:
            owner[d] = objects[m]
