"""The one protocol that every video object segmentation system follows.

A system is a Linen module made of pure functions with static shapes: frames become *features*,
given masks become a *memory* of fixed capacity, features and memory become a *prediction*, and the
prediction is memorised for the next frame. Training, evaluation and streaming are all built from
these functions (see vos_jax.inference), so a system that implements them can be trained, evaluated
and run on a user's video without further code.

Glossary: B videos, T frames, N object slots (real objects padded to a bucket), N+1 channels with
background first, H W the size of the original frame, masks float [B, N+1, H, W] with one-hot or
soft values; a pixel whose channels are all zero is void. `valid` bool [B, N] tells real slots from
padding; padding never changes a result.
"""

from typing import Any, ClassVar

import cv2
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

VOID = 255  # label of pixels that are neither object nor background


class VOSModel(nn.Module):
    """Base class: what a system declares and implements.

    Memory is a pytree whose shapes depend only on the frame size, the number of object slots and
    the number of reference frames it has room for, so a video of any length compiles once. Capacity
    that is not used yet holds zeros, which lets `inference.streaming` grow a memory by zero-padding
    it.
    """

    # A new object enters the memory "before" or "after" its first frame has been segmented.
    introduces: ClassVar[str] = "after"
    # Whether the mask given for a new object overwrites the prediction of that frame.
    pastes: ClassVar[bool] = True
    # Whether the system feeds its probabilities back to itself, or hard masks.
    soft_feedback: ClassVar[bool] = False

    # Where the variables of its backbones lie, for `config.init.backbone`.
    backbone_scopes: ClassVar[tuple[tuple[str, ...], ...]] = (("backbone",),)
    # (source, target): modules of which the second begins as a copy of the first, where they agree.
    copied_scopes: ClassVar[tuple[tuple[str, str], ...]] = ()

    @property
    def mesh(self) -> Mesh | None:
        """The devices that inference runs on, where it is more than one."""
        return None

    def preprocess(self, frame: np.ndarray) -> Any:
        """One frame, uint8 [H, W, 3] RGB, as `encode` wants it (on the host: resize, pad, BGR)."""
        return frame

    def encode(self, inputs: Any, train: bool = False) -> Any:
        """Features of prepared frames [B, h, w, 3]; one pass per frame, shared by all objects."""
        raise TypeError(f"{type(self).__name__} lacks encode")

    def start(
        self,
        features: Any,
        masks: jax.Array | None,
        valid: jax.Array,
        references: int = 1,
        train: bool = False,
    ) -> Any:
        """Memory after the first frame, with room for `references` frames with given masks."""
        raise TypeError(f"{type(self).__name__} lacks start")

    def segment(self, memory: Any, features: Any) -> Any:
        """Prediction for a frame, in the system's own form (logits, odds, sigmoids)."""
        raise TypeError(f"{type(self).__name__} lacks segment")

    def memorize(self, memory: Any, features: Any, prediction: Any, masks: jax.Array) -> Any:
        """Memory once the frame is done; `masks` stand for it and `prediction` may be None."""
        raise TypeError(f"{type(self).__name__} lacks memorize")

    def introduce(self, memory: Any, features: Any, masks: jax.Array, new: jax.Array) -> Any:
        """Memory with the objects marked in `new` bool [B, N], given in this frame."""
        raise TypeError(f"{type(self).__name__} lacks introduce")

    def probabilities(self, prediction: Any, size: tuple[int, int]) -> jax.Array:
        """Probabilities float32 [B, N+1, H, W] at the size of the original frame."""
        raise TypeError(f"{type(self).__name__} lacks probabilities")

    def labels(self, prediction: Any, size: tuple[int, int]) -> jax.Array:
        """Slot labels uint8 [B, H, W], 0 background; ties go to the lowest slot."""
        return jnp.argmax(self.probabilities(prediction, size), axis=1).astype(jnp.uint8)

    def feedback(self, prediction: Any, size: tuple[int, int]) -> jax.Array:
        """Masks [B, N+1, H, W] that the system feeds back to itself, see `soft_feedback`."""
        if self.soft_feedback:
            return self.probabilities(prediction, size)
        slots = jax.eval_shape(lambda p: self.probabilities(p, size), prediction).shape[1]
        return one_hot(self.labels(prediction, size), slots - 1)

    def losses(
        self,
        predictions: Any,
        labels: jax.Array,
        valid: jax.Array,
        step: jax.Array,
        **settings: Any,
    ) -> jax.Array:
        """Loss of each video [B]; predictions [T, B, ...] of the frames of labels [B, T, H, W]."""
        raise TypeError(f"{type(self).__name__} lacks losses")

    def __call__(self, inputs: jax.Array, masks: jax.Array, valid: jax.Array) -> Any:
        """Segment the second of two frames [2, B, h, w, 3]; meets every parameter, for `init`."""
        memory = self.start(self.encode(inputs[0]), masks, valid)
        return self.segment(memory, self.encode(inputs[1]))


def one_hot(labels: jax.Array, slots: int) -> jax.Array:
    """Masks float32 [..., N+1, H, W] of labels [..., H, W]; labels outside 0..N are void."""
    ids = jnp.arange(slots + 1, dtype=jnp.int32)[:, None, None]
    return (labels.astype(jnp.int32)[..., None, :, :] == ids).astype(jnp.float32)


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


def bucket(count: int) -> int:
    """The smallest of 1, 2, 4, 8, ... not below `count`: padding to it keeps compilations few."""
    return 1 << max(count - 1, 0).bit_length()
