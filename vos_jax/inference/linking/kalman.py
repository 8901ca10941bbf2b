"""A Kalman filter for boxes, as DeepSORT uses it (Wojke, Bewley, Paulus 2017, section 2.1).

The state is (x, y, a, h) of the centre, the ratio of width to height, and the height, with a speed
of each; a frame moves the first four by the speeds. Deviations grow with the height. Constants and
equations: kalman_filter.py of nwojke/deep_sort.
"""

import numpy as np

POSITION, SPEED = 1 / 20, 1 / 160  # standard deviations, in heights
GATE = 9.4877  # chi-squared of 4 degrees, 95 %: squared distances above it are no match
_MOTION = np.eye(8) + np.eye(8, k=4)
_SEEN = np.eye(4, 8)


def measured(boxes: np.ndarray) -> np.ndarray:
    """Corners [N, 4] as (x, y, a, h), float64 [N, 4]; no side is below a hundredth of a pixel."""
    boxes = np.asarray(boxes, np.float64)
    width, height = np.maximum(boxes[:, 2:] - boxes[:, :2], 1e-2).T
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    return np.column_stack([centre, width / height, height])


class Kalman:
    """The state of one object; z: its first measurement [4]."""

    def __init__(self, z: np.ndarray):
        self.mean = np.concatenate([z, np.zeros(4)])
        h = z[3]
        deviations = [2 * POSITION * h, 2 * POSITION * h, 1e-2, 2 * POSITION * h]
        speeds = [10 * SPEED * h, 10 * SPEED * h, 1e-5, 10 * SPEED * h]
        self.covariance = np.diag(np.square(deviations + speeds))

    def predict(self) -> None:
        """One frame later."""
        h = self.mean[3]
        noise = [POSITION * h, POSITION * h, 1e-2, POSITION * h]
        noise += [SPEED * h, SPEED * h, 1e-5, SPEED * h]
        self.mean = _MOTION @ self.mean
        self.covariance = _MOTION @ self.covariance @ _MOTION.T + np.diag(np.square(noise))

    def update(self, z: np.ndarray) -> None:
        """Correct the state by a measurement [4]."""
        covariance = self._of_measurement()
        gain = np.linalg.solve(covariance, _SEEN @ self.covariance).T
        self.mean = self.mean + gain @ (z - self.mean[:4])
        self.covariance = self.covariance - gain @ covariance @ gain.T

    def distances(self, z: np.ndarray) -> np.ndarray:
        """Squared Mahalanobis distances of measurements [N, 4]."""
        offset = z - self.mean[:4]
        return np.einsum("ni,in->n", offset, np.linalg.solve(self._of_measurement(), offset.T))

    @property
    def box(self) -> np.ndarray:
        """Corners [4] of where the object is thought to be."""
        x, y, a, h = self.mean[:4]
        return np.array([x - a * h / 2, y - h / 2, x + a * h / 2, y + h / 2])

    def _of_measurement(self) -> np.ndarray:
        h = self.mean[3]
        noise = np.square([POSITION * h, POSITION * h, 1e-1, POSITION * h])
        return _SEEN @ self.covariance @ _SEEN.T + np.diag(noise)
