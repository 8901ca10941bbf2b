"""What every video object segmentation system implements and declares.

A system is a Linen module made of pure functions with static shapes: frames become *features*,
given masks become a *memory* of fixed capacity, features and memory become a *prediction*, and the
prediction is memorised for the next frame. Training, evaluation and streaming are all built from
these functions (see vos_jax.inference), so a system that implements them can be trained, evaluated
and run on a user's video without further code. Its entry in SYSTEMS (systems/table.py) adds what is
needed to import, test and measure it.

Glossary: B videos, T frames, N object slots (real objects padded to a bucket), N+1 channels with
background first, H W the size of the original frame. *Labels* are integer maps [B, H, W]: 0
background, 1..N the slots, anything else void. *Masks* are channels, float [B, N+1, H, W], one-hot
or soft; a pixel whose channels are all zero is void. `valid` bool [B, N] tells real slots from
padding; padding never changes a result.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from vos_jax.official.naming import Imported

Scope = tuple[str, ...]


@dataclass(frozen=True)
class Traits:
    """What a system declares about the way it is to be run.

    Attributes:
        introduces: a new object enters the memory "before" or "after" its first frame has been
            segmented.
        pastes: whether the mask given for an object overwrites the prediction of that frame.
        soft_feedback: whether the system feeds its probabilities back to itself, or hard masks.
        backbone_scopes: where the variables of its backbones lie, for `config.init.backbone`.
        copied_scopes: pairs (source, target) of modules of which the second begins as a copy of the
            first, where they agree.
    """

    introduces: str = "after"
    pastes: bool = True
    soft_feedback: bool = False
    backbone_scopes: tuple[Scope, ...] = (("backbone",),)
    copied_scopes: tuple[tuple[str, str], ...] = ()


class VOSModel(nn.Module):
    """Base class: what a system implements.

    Memory is a pytree whose shapes depend only on the frame size, the number of object slots and
    the number of reference frames it has room for, so a video of any length compiles once. Capacity
    that is not used yet holds zeros, which lets `inference.streaming` grow a memory by zero-padding
    it.
    """

    @property
    def traits(self) -> Traits:
        """What the system declares."""
        return Traits()

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
        num_references: int = 1,
        train: bool = False,
    ) -> Any:
        """Memory after the first frame, with room for so many frames with given masks."""
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
        """Masks [B, N+1, H, W] that the system feeds back to itself, see `Traits`."""
        if self.traits.soft_feedback:
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
    return jax.nn.one_hot(labels, slots + 1, axis=-3, dtype=jnp.float32)


@dataclass(frozen=True)
class Part:
    """A piece of a stage that `python -m vos_jax.benchmark` measures alone.

    Attributes:
        stage: "encode", "segment" or "memorize".
        name: a submodule, or a method of the model, that the stage calls; it is given what it is
            given there.
        floor: what the piece must cost whatever its form, a function of the stage's arguments
            (after the variables), such as the bare matrix products of a read.
    """

    stage: str
    name: str
    floor: Callable[..., Any] | None = None


@dataclass(frozen=True)
class System:
    """One entry of the table of systems: all that is known about a system besides its module.

    Attributes:
        model: the class of its module, a VOSModel or (for a variant) a subclass of another one. Its
            fields' defaults are the released configuration.
        from_official: function of official arrays (name -> array) and of our variables' shapes that
            gives the `official.naming.Imported` variables; ValueError names what does not fit. None
            where nothing was released.
        tiny: fields of a model that compiles in seconds, for tests and `benchmark stream`.
        inference: names of fields that say how a trained network is run and leave its variables as
            they are; configs hold them in the section `inference`, not in `model`.
        parts: what `benchmark` measures within a frame.
        measured: fields of the full-size model that `benchmark` measures, where they are not the
            released ones.
        warm_up: frames that are in its memory when `benchmark` measures a frame.
        exempt: name of a promise that every system keeps (see tests/systems/test_every_system.py)
            -> why this one does not.
    """

    model: type[VOSModel]
    from_official: Callable[[Mapping[str, np.ndarray], Mapping[str, Any]], Imported] | None = None
    tiny: Mapping[str, Any] = field(default_factory=dict)
    inference: tuple[str, ...] = ()
    parts: tuple[Part, ...] = ()
    measured: Mapping[str, Any] = field(default_factory=dict)
    warm_up: int = 1
    exempt: Mapping[str, str] = field(default_factory=dict)
