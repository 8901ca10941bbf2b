"""The size at which systems look at frames, and bringing frames to it, on the host."""

import cv2
import numpy as np
from PIL import Image


def scaled_size(size: tuple[int, int], short_side: int = 0, scale: float = 1.0) -> tuple[int, int]:
    """Height and width of a frame of `size` once it was shrunk, then scaled.

    It is shrunk until its shorter side is `short_side`; 0 leaves it as it is.
    """
    shrink = min(1.0, short_side / min(size)) if short_side > 0 else 1.0
    return tuple(round(n * shrink * scale) for n in size)


def resize_frame(frame: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A frame [H, W, 3] at `size` (height, width): means over areas when it gets smaller."""
    if frame.shape[:2] == tuple(size):
        return frame
    interpolation = cv2.INTER_AREA if size[0] < frame.shape[0] else cv2.INTER_LINEAR
    return cv2.resize(frame, size[::-1], interpolation=interpolation)


def resize_pillow(frame: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A frame uint8 [H, W, 3] at `size` (height, width), bilinear and antialiased as Pillow does.

    What scipy.misc.imresize was to released code of its time.
    """
    if frame.shape[:2] == tuple(size):
        return frame
    return np.asarray(Image.fromarray(frame).resize(size[::-1], Image.Resampling.BILINEAR))
