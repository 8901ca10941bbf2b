"""What every video instance segmentation system implements.

A system finds the instances of a frame and says which ones of earlier frames they are. Its pieces
are pure functions with static shapes, so that a video of any length and any number of instances is
one compiled program: detections fill slots, the best first, and what is remembered of the video has
a fixed capacity. Training, evaluation and streaming are built from these functions.

Frames come onto a canvas: `preprocess` scales them, places them in its upper left corner and says
how large they are there. Sizes and scales are values, not shapes; frames of any size on one canvas
are one program, too.

Glossary: B videos, D slots of detections, K classes with the background first, m side of a mask
grid, E size of embeddings, h w the canvas.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from flax import struct

from vos_jax.systems.base import Traits


@struct.dataclass
class Inputs:
    """A prepared frame."""

    frame: Any  # float32 [B, h, w, 3], normalised; 0 beyond the frame
    size: Any  # int32 [B, 2]: height and width of the frame on the canvas
    scale: Any  # float32 [B, 2]: pixels there for each pixel of the original frame, (y, x)


@struct.dataclass
class Detections:
    """The instances of a frame, the best first."""

    boxes: jax.Array  # float32 [B, D, 4], pixels of the original frame
    scores: jax.Array  # float32 [B, D] in 0..1; 0 in a slot that is not used
    classes: jax.Array  # int32 [B, D], from 0, without the background
    probabilities: jax.Array  # float32 [B, D, K]
    masks: jax.Array  # float32 [B, D, m, m], logits inside of the box
    embeddings: jax.Array  # float32 [B, D, E]; E is 0 where a system has none
    valid: jax.Array  # bool [B, D]


@struct.dataclass
class Linked:
    """Detections of a frame with the identities of their instances in the video."""

    ids: jax.Array  # int32 [B, D], from 0 by first appearance; -1: of no instance
    detections: Detections


class VISModel(nn.Module):
    """Base class: what a system implements.

    Attributes:
        delay: how many frames `link` lags behind.
    """

    delay = 0

    @property
    def traits(self) -> Traits:
        """What it declares: it is shown no masks, and where the variables of its backbone lie."""
        return Traits(guidance="none")

    def preprocess(self, frame: np.ndarray) -> Inputs:
        """One frame, uint8 [H, W, 3] RGB, on the host: numpy arrays without the batch axis."""
        raise TypeError(f"{type(self).__name__} lacks preprocess")

    def encode(self, inputs: Inputs, train: bool = False) -> Any:
        """Features of frames; one pass."""
        raise TypeError(f"{type(self).__name__} lacks encode")

    def detect(self, features: Any) -> Detections:
        """The instances of each frame."""
        raise TypeError(f"{type(self).__name__} lacks detect")

    def start(self, features: Any) -> Any:
        """The memory before the first frame, a pytree of fixed shapes; what is unused is zero.

        features: of any frame, for their shapes.
        """
        raise TypeError(f"{type(self).__name__} lacks start")

    def link(
        self, memory: Any, features: Any, detections: Detections, real: jax.Array
    ) -> tuple[Any, Linked]:
        """The memory after a frame, and the frame `delay` before it with identities.

        real: bool [B]; False after the last frame of a video, to get at what is still delayed.
        """
        raise TypeError(f"{type(self).__name__} lacks link")

    def masks(self, detections: Detections, size: tuple[int, int]) -> jax.Array:
        """Masks of whole frames of the original `size`, bool [B, D, H, W]."""
        raise TypeError(f"{type(self).__name__} lacks masks")

    def losses(
        self, batch: Mapping[str, jax.Array], key: jax.Array, step: jax.Array, **settings: Any
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Loss of each example [B], whose mean over the batch is minimised, and its parts [B].

        key: of what is drawn by chance. Where the released loss is a mean over something that
        examples have in different numbers, losses are scaled so that their mean is that.
        """
        raise TypeError(f"{type(self).__name__} lacks losses")

    def example_inputs(self) -> tuple[Inputs]:
        """Arguments of `__call__` with which variables are made; none depends on the size."""
        frame = np.zeros((1, 64, 64, 3), np.float32)
        return (Inputs(frame, np.int32([[64, 64]]), np.ones((1, 2), np.float32)),)

    def __call__(self, inputs: Inputs) -> Any:
        """The detections of frames; meets every parameter, for `init`."""
        return self.detect(self.encode(inputs))
