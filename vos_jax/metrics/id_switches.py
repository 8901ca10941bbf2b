"""Identity switches: how often what follows a true track changes.

In every frame the results are assigned to the true tracks one to one by the overlaps of their
masks, as CLEAR MOT does (Bernardin and Stiefelhagen 2008, section 2.1): a pair of the frame before
stays while it overlaps by at least half, the others are paired so that the sum of the overlaps is
largest. A switch is a true track that gets another result than the last one it had, also if it had
none in between. Categories and scores play no part.

Glossary: D results and G true tracks that are there in a frame.
"""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

LEAST = 0.5  # overlap of a pair


@dataclass(frozen=True)
class IdSwitches:
    """switches: of all true tracks. followed: tracks that had a result at all. ids: how many
    different results each of these had, summed up. tracks: all of them.
    """

    switches: int = 0
    followed: int = 0
    ids: int = 0
    tracks: int = 0

    def __add__(self, other: "IdSwitches") -> "IdSwitches":
        return IdSwitches(
            self.switches + other.switches,
            self.followed + other.followed,
            self.ids + other.ids,
            self.tracks + other.tracks,
        )

    def facts(self) -> dict[str, float]:
        """The numbers by name; ids_per_track is -1 where no track is followed."""
        return {
            "switches": self.switches,
            "ids_per_track": self.ids / self.followed if self.followed else -1.0,
            "tracks_followed": self.followed,
            "tracks": self.tracks,
        }


class IdSwitchCounter:
    """Counts over the frames of one video; counted: bool, which true tracks count."""

    def __init__(self, counted: np.ndarray):
        self._counted = np.asarray(counted, bool)
        self._last = np.full(len(self._counted), -1)  # result that a true track had last
        self._ids: list[set[int]] = [set() for _ in self._counted]
        self._switches = 0

    def see(self, found: np.ndarray, truths: np.ndarray, overlaps: np.ndarray) -> None:
        """The next frame: numbers of the results [D] and true tracks [G] in it, overlaps [D, G]."""
        wanted = np.flatnonzero(self._counted[truths])
        truths, overlaps = truths[wanted], overlaps[:, wanted]
        if not overlaps.size:
            return
        kept = (found[:, None] == self._last[truths]) & (overlaps >= LEAST)
        # a pair that stays is worth more than all that could come in its place
        worth = np.where(overlaps >= LEAST, overlaps + (1 + len(truths)) * kept, 0)
        rows, columns = linear_sum_assignment(worth, maximize=True)
        paired = worth[rows, columns] > 0
        for d, g in zip(found[rows[paired]], truths[columns[paired]], strict=True):
            self._switches += self._last[g] not in (-1, d)
            self._last[g] = d
            self._ids[g].add(int(d))

    def result(self) -> IdSwitches:
        """What was counted so far."""
        return IdSwitches(
            int(self._switches),
            sum(bool(ids) for ids in self._ids),
            sum(map(len, self._ids)),
            int(self._counted.sum()),
        )
