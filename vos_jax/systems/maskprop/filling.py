"""Masks for frames in which the detector missed an instance.

In MaskProp an instance's mask is that of the detection with its id, and it has none where it was
not detected. Clips around that frame may still have carried its mask there: their mean, where it is
above 1/2, takes the place. It is known T frames after the ids are, when the last clip that holds
the frame is linked. On the host, for the number of ids has no bound.
"""

from collections import deque

import numpy as np

THRESHOLD = 0.5


class Filling:
    """Takes the clips of a video in order, gives the masks missed in each frame.

    reach: T.
    """

    def __init__(self, reach: int):
        self._reach = reach
        self._clips: deque[tuple[np.ndarray, np.ndarray]] = deque(maxlen=2 * reach + 1)
        self._time = 0  # frame of the next clip

    def step(self, masks: np.ndarray, ids: np.ndarray) -> list[dict[int, np.ndarray]]:
        """The clip of the next frame, masks float32 [D, 2 T + 1, h, w] and ids int [D], -1: none.

        Returns:
            For the frame that no later clip holds, id -> mask float32 [h, w] in 0..1; an empty list
            as long as there is no such frame.
        """
        known = ids >= 0
        self._clips.append((masks[known], ids[known]))
        self._time += 1
        frame = self._time - 1 - self._reach
        return [self._missed(frame)] if frame >= 0 else []

    def finish(self) -> list[dict[int, np.ndarray]]:
        """After the last clip: the same for the frames that are left."""
        first = max(self._time - self._reach, 0)
        return [self._missed(t) for t in range(first, self._time)]

    def _missed(self, frame: int) -> dict[int, np.ndarray]:
        oldest = self._time - len(self._clips)
        carried: dict[int, list[np.ndarray]] = {}
        found: set[int] = set()
        for t, (masks, ids) in enumerate(self._clips, start=oldest):
            place = frame - t + self._reach
            if t == frame:
                found = set(ids.tolist())
            elif 0 <= place <= 2 * self._reach:
                for i, mask in zip(ids.tolist(), masks[:, place], strict=True):
                    carried.setdefault(i, []).append(mask)
        means = {i: np.mean(m, axis=0) for i, m in sorted(carried.items()) if i not in found}
        return {i: mean for i, mean in means.items() if mean.max() > THRESHOLD}
