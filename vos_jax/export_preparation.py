"""What a system does to a frame on the host, as two matrix products that go into a program.

Every `preprocess` resizes and pads each axis alone and linearly, so a frame x becomes R x C^T for
each colour. The matrices are found by asking `preprocess` itself, with frames that are 1 in a row
or column and 0 elsewhere; where it takes 8 bits only (Pillow), by asking Pillow for its weights.
Padding comes out exact. Resized frames of 8 bits may be off by one grey level, since libraries
round in between, which is checked.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from vos_jax.systems.base import VOSModel

GREY_LEVELS = 1.0  # that resized frames may be off


@dataclass(frozen=True)
class Preparation:
    """From frames to what `encode` gets.

    rows float32 [h, H], columns float32 [w, W], None where frames stay as they are; size (h, w);
    dtype of prepared frames.
    """

    size: tuple[int, int]
    dtype: str
    rows: np.ndarray | None = field(default=None, repr=False)
    columns: np.ndarray | None = field(default=None, repr=False)

    def matrices(self) -> dict[str, np.ndarray]:
        """The arrays that `prepared` needs; none where frames stay as they are."""
        return {} if self.rows is None else {"rows": self.rows, "columns": self.columns}

    def prepared(self, frame: jax.Array, matrices: Mapping[str, jax.Array]) -> jax.Array:
        """A frame uint8 [H, W, 3] as [h, w, 3]."""
        frame = jnp.asarray(frame)
        if not matrices:
            return frame.astype(self.dtype)
        products = ("hH,HWc,wW->hwc", matrices["rows"], frame.astype(jnp.float32))
        frame = jnp.einsum(*products, matrices["columns"], precision=jax.lax.Precision.HIGHEST)
        if self.dtype == "uint8":
            frame = jnp.clip(jnp.rint(frame), 0, 255)
        return frame.astype(self.dtype)


def preparation_of(model: VOSModel, size: tuple[int, int]) -> Preparation:
    """How `model.preprocess` prepares frames of `size`.

    Raises ValueError where it is no such product.
    """
    frame = np.random.default_rng(0).integers(0, 256, (*size, 3)).astype(np.uint8)
    wanted = model.preprocess(frame)
    shape, dtype = wanted.shape[:2], str(wanted.dtype)
    if shape == size and (wanted == frame).all():
        return Preparation(shape, dtype)
    try:
        model.preprocess(frame.astype(np.float32))
    except TypeError:
        rows, columns = (_pillow_weights(n, m) for n, m in zip(size, shape, strict=True))
    else:
        rows, columns = (_weights(model, size, axis) for axis in (0, 1))
    preparation = Preparation(shape, dtype, rows, columns)
    found = np.asarray(preparation.prepared(frame, preparation.matrices()))
    off = float(np.abs(found.astype(np.float32) - wanted.astype(np.float32)).max())
    if off > GREY_LEVELS:
        raise ValueError(
            f"{type(model).__name__} prepares frames of {size[0]}x{size[1]} in a way that cannot "
            f"be exported: off by {off:.2g} grey levels, expected {GREY_LEVELS:.0f}; export for "
            "the size of its network"
        )
    return preparation


def _weights(model: VOSModel, size: tuple[int, int], axis: int) -> np.ndarray:
    """The matrix of one axis by three rows (or columns) at a time, one in each colour."""
    count, responses = size[axis], []
    for first in range(0, count, 3):
        places = range(first, min(first + 3, count))
        probe = np.zeros((*size, 3), np.float32)
        for colour, place in enumerate(places):
            np.moveaxis(probe, axis, 0)[place, :, colour] = 1
        answer = np.moveaxis(model.preprocess(probe), axis, 0)
        # in the middle no padding of the other axis is met
        responses.append(answer[:, answer.shape[1] // 2, : len(places)])
    return np.concatenate(responses, axis=1)


def _pillow_weights(count: int, wanted: int) -> np.ndarray:
    """[wanted, count], bilinear with antialiasing."""
    unit = Image.fromarray(np.eye(count, dtype=np.float32))
    return np.asarray(unit.resize((count, wanted), Image.Resampling.BILINEAR))
