"""What every system for instances in video implements and declares.

A system detects the objects of a frame, which gives `Detections` of fixed shape, and may link them:
give each the identity of an object met before, or a new one. Frames lie on a canvas whose size is
static while their own size and scale are values, so that one compiled program serves frames of any
size. Its entry in SYSTEMS (systems/table.py) has task "vis".

Glossary: B frames, D slots of detections, K classes without the background, E numbers that say what
an object looks like, T frames of a training example, N its slots of instances.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from flax import struct
from jax.sharding import Mesh

from vos_jax.ops.boxes import MODERN, Geometry
from vos_jax.systems.base import Scope


@struct.dataclass
class Inputs:
    """Frames on a canvas [B, H, W, 3], normalised, in its top left corner; the rest is 0."""

    canvas: jax.Array
    size: jax.Array  # float32 [B, 2], height and width of what is no border
    scale: jax.Array  # float32 [B, 2], down and across: pixels of the canvas per original pixel


@struct.dataclass
class Detections:
    """What was found in each frame, the best first, in original pixels.

    A slot that holds nothing has score 0 and a box of one pixel, which no operation takes for NaN.
    """

    boxes: jax.Array  # float32 [B, D, 4]
    scores: jax.Array  # float32 [B, D]
    classes: jax.Array  # int32 [B, D], from 1
    probabilities: jax.Array  # float32 [B, D, K + 1], background first
    masks: jax.Array  # float32 [B, D, m, m], probabilities within the box
    features: jax.Array  # float32 [B, D, E]
    valid: jax.Array  # bool [B, D]


class VISModel(nn.Module):
    """Base class: what a system implements."""

    @property
    def delay(self) -> int:
        """How many frames later the identities of a frame are settled."""
        return 0

    @property
    def geometry(self) -> Geometry:
        """What the corners of its boxes mean."""
        return MODERN

    @property
    def backbone_scopes(self) -> tuple[Scope, ...]:
        """Where the variables of its backbone lie, for `config.init.backbone`."""
        return (("backbone",),)

    @property
    def mesh(self) -> Mesh | None:
        """The devices that inference runs on, where it is more than one."""
        return None

    def preprocess(self, frame: np.ndarray) -> Inputs:
        """On the host: a frame, uint8 [H, W, 3] RGB, as `encode` wants it, without the axis B."""
        raise TypeError(f"{type(self).__name__} lacks preprocess")

    def encode(self, inputs: Inputs, train: bool = False) -> Any:
        """Features of prepared frames."""
        raise TypeError(f"{type(self).__name__} lacks encode")

    def detect(self, features: Any) -> Detections:
        """The objects of each frame."""
        raise TypeError(f"{type(self).__name__} lacks detect")

    def draw(self, detections: Detections, size: tuple[int, int]) -> jax.Array:
        """Masks bool [B, D, H, W] of frames of `size` (H, W), static."""
        raise TypeError(f"{type(self).__name__} lacks draw")

    def start(self) -> Any:
        """Memory before the first frame of a video: fixed capacity, what is unused is 0."""
        raise TypeError(f"{type(self).__name__} links no objects")

    def link(self, memory: Any, features: Any, detections: Detections, real: jax.Array) -> tuple:
        """Memory after a frame, identities int32 [1, D] (-1: none) and the detections they are of,
        those of `delay` frames before.

        real: bool [1]; False after the last frame, to settle those that are left.
        """
        raise TypeError(f"{type(self).__name__} links no objects")

    def losses(
        self, batch: Mapping[str, jax.Array], rng: jax.Array, **settings: Any
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Losses [B] whose mean is minimised, and its parts by name; see InstanceExamples."""
        raise TypeError(f"{type(self).__name__} lacks losses")
