"""Frames on a canvas, as detectors want them: scaled, normalised, padded with zeros.

torchvision (a continuous geometry) normalises first and scales floats, and rounds a side down;
mmdet 0.x (an inclusive one) scales uint8 and normalises then, and rounds a side to the nearest.
"""

from collections.abc import Mapping

import cv2
import jax
import jax.numpy as jnp
import numpy as np

from vos_jax.nn.images import imagenet_normalise
from vos_jax.ops.boxes import Geometry
from vos_jax.systems.vis_base import Inputs

_MEAN, _STD = np.float32((0.485, 0.456, 0.406)), np.float32((0.229, 0.224, 0.225))
COARSEST = 32  # sides of a canvas are multiples of the stride of the backbone's last map


def scaled_size(
    size: tuple[int, int],
    image_scale: tuple[int, int],
    canvas: tuple[int, int],
    geometry: Geometry,
) -> tuple[tuple[int, int], tuple[float, float]]:
    """Size of a frame that fits into image_scale (long, short) side, and what boxes grow by (y, x).

    It fits into the canvas (height, width) as well, unless that is (0, 0). The releases differ in
    what boxes grow by: mmdet's is the factor itself, torchvision's the ratio of sides.
    """
    real = float if geometry.inclusive else np.float32  # as the releases compute it
    sides = [*zip(sorted(image_scale), sorted(size), strict=True)]
    sides += zip(canvas, size, strict=True) if any(canvas) else []
    factor = float(min(real(most) / real(side) for most, side in sides))
    if geometry.inclusive:
        return tuple(int(side * factor + 0.5) for side in size), (factor, factor)
    scaled = tuple(int(side * factor) for side in size)
    return scaled, tuple(new / old for new, old in zip(scaled, size, strict=True))


def prepare(
    frame: np.ndarray,
    image_scale: tuple[int, int],
    canvas: tuple[int, int],
    geometry: Geometry,
) -> Inputs:
    """One frame, uint8 [H, W, 3] RGB, on the host.

    image_scale: (long, short) sides that the frame is to fit into; (0, 0) leaves it as it is.
    canvas: (height, width), multiples of 32, that a scaled frame is to fit into, too; (0, 0): as
    small as the frame allows.
    ValueError where a frame as it is does not fit the canvas, or that is no multiple of 32.
    """
    size, scale = frame.shape[:2], (1.0, 1.0)
    if any(image_scale):
        size, scale = scaled_size(size, image_scale, canvas, geometry)
    if geometry.inclusive:
        scaled = _normalise(_resize(frame, size))
    else:
        scaled = _resize(_normalise(frame), size)
    room = tuple(-(-side // COARSEST) * COARSEST for side in size)
    canvas = tuple(canvas) if any(canvas) else room
    if any(side % COARSEST for side in canvas) or any(np.less(canvas, size)):
        raise ValueError(
            f"config.inference.canvas: expected multiples of {COARSEST} of at least {room} for a "
            f"frame of {frame.shape[:2]} scaled to {size}, found {canvas}; (0, 0) fits every frame"
        )
    padded = np.zeros((*canvas, 3), np.float32)
    padded[: size[0], : size[1]] = scaled
    return Inputs(padded, np.int32(size), np.float32(scale))


def batch_inputs(batch: Mapping[str, jax.Array], frame: int) -> Inputs:
    """One frame of each training example, which is on its canvas already.

    batch: frames [B, T, H, W, 3] in 0..255 and size int32 [B, 2], of the frames on the canvas.
    """
    frames, size = imagenet_normalise(batch["frames"][:, frame]), batch["size"]
    rows, columns = (jnp.arange(n) < size[:, i, None] for i, n in enumerate(frames.shape[1:3]))
    inside = rows[:, :, None] & columns[:, None]
    return Inputs(frames * inside[..., None], size, jnp.ones((len(frames), 2)))


def _resize(image, size):
    if image.shape[:2] == tuple(size):
        return image
    return cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR)


def _normalise(image):
    return ((image.astype(np.float32) / 255 - _MEAN) / _STD).astype(np.float32)
