"""The size at which systems look at frames, and bringing frames to it, on the host."""

import math
from dataclasses import dataclass

import cv2
import jax
import numpy as np
from PIL import Image

Margins = tuple[tuple[int, int], tuple[int, int]]


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


@dataclass(frozen=True)
class PaddedSize:
    """Frames that are shrunk and scaled, then padded to multiples of `stride`, in the middle.

    Attributes:
        stride: what the sides of padded frames are multiples of.
        short_side, scale: see `scaled_size`.
        odd_before: whether an odd pixel of padding comes before the frame, or after it.
    """

    stride: int
    short_side: int = 0
    scale: float = 1.0
    odd_before: bool = False

    def pad(self, frame: np.ndarray, mode: str = "constant") -> np.ndarray:
        """A frame [H, W, 3] as the network gets it; mode: of np.pad, 0 by default."""
        size = self._before_padding(frame.shape[:2])
        margins = self.margins(size, self._padded(size))
        return np.pad(resize_frame(frame, size), (*margins, (0, 0)), mode=mode)

    def check(self, size: tuple[int, int], system: str) -> None:
        """Raises ValueError unless prepared frames have such a size."""
        if size[0] % self.stride or size[1] % self.stride:
            raise ValueError(
                f"{system}: expected frames whose sides are multiples of {self.stride}, found "
                f"{size[0]}x{size[1]} (height x width); `preprocess` pads them, training crops "
                "(config.data.crop) must be chosen so"
            )

    def inside(self, size: tuple[int, int], padded: tuple[int, int]) -> tuple[int, int]:
        """The part of a padded frame that a frame of `size` fills.

        Training crops are as large as they are, frames from `pad` may have been resized.
        """
        return tuple(size) if self._padded(size) == tuple(padded) else self._before_padding(size)

    def margins(self, size: tuple[int, int], padded: tuple[int, int]) -> Margins:
        """Pixels before and after each side of `size` within `padded`."""
        before = [(m - n + self.odd_before) // 2 for n, m in zip(size, padded, strict=True)]
        return tuple((b, m - n - b) for b, n, m in zip(before, size, padded, strict=True))

    def crop(self, maps: jax.Array, size: tuple[int, int]) -> jax.Array:
        """The part of maps [B, N, H, W] of padded frames that a frame of `size` fills."""
        height, width = self.inside(size, maps.shape[2:])
        (top, _), (left, _) = self.margins((height, width), maps.shape[2:])
        return maps[:, :, top : top + height, left : left + width]

    def _before_padding(self, size: tuple[int, int]) -> tuple[int, int]:
        scaled = scaled_size(size, self.short_side, self.scale)
        unlike = self._padded(scaled) != self._padded(size)
        return scaled if unlike else tuple(size)  # nothing to gain

    def _padded(self, size: tuple[int, int]) -> tuple[int, int]:
        return tuple(math.ceil(n / self.stride) * self.stride for n in size)
