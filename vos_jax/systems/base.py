"""What every video object segmentation system implements and declares.

A system is a Linen module made of pure functions with static shapes: frames become *features*,
given masks (or the first frames alone) become a *memory* of fixed capacity, features and memory
become a *prediction*, and what the prediction says is memorised for the next frame. Training,
evaluation and streaming are all built from these functions (see vos_jax.inference), so a system
that implements them can be trained, evaluated and run on a user's video without further code. Its
entry in SYSTEMS (systems/table.py) adds what is needed to import, test and measure it.

Glossary: B videos, T frames, N object slots (real objects padded to a bucket), N+1 channels with
background first, H W the size of the original frame. *Labels* are integer maps [B, H, W]: 0
background, 1..N the slots, anything else void. *Masks* are channels, float [B, N+1, H, W], one-hot
or soft; a pixel whose channels are all zero is void. `valid` bool [B, N] tells real slots from
padding; padding never changes a result.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from vos_jax.official.naming import Imported

Scope = tuple[str, ...]
# Fields, of systems that match or read, that say how products are computed (see ops.platforms): a
# checkpoint runs with any value of them.
HOW_COMPUTED = ("precision", "kernel_bytes")


@dataclass(frozen=True)
class Traits:
    """What a system declares about the way it is to be run.

    Attributes:
        guidance: masks must be given ("masks"), may be ("either"), or are not looked at ("none").
        proposals: object slots of a video without given masks; their ids are 1..proposals.
        segments_first: whether the first frame is segmented, too, with the memory that `start` made
            of it; otherwise its masks are the answer.
        introduces: a new object enters the memory "before" or "after" its first frame has been
            segmented.
        pastes: whether the mask given for an object overwrites the result of that frame.
        remembers_given: whether it also overwrites what the system feeds back to itself there.
        soft_feedback: whether the system feeds its probabilities back to itself, or hard masks.
        backbone_scopes: where the variables of its backbones lie, for `config.init.backbone`.
        copied_scopes: pairs (source, target) of modules of which the second begins as a copy of the
            first, where they agree.
    """

    guidance: str = "masks"
    proposals: int = 0
    segments_first: bool = False
    introduces: str = "after"
    pastes: bool = True
    remembers_given: bool = True
    soft_feedback: bool = False
    backbone_scopes: tuple[Scope, ...] = (("backbone",),)
    copied_scopes: tuple[tuple[str, str], ...] = ()


class Instances(NamedTuple):
    """Objects of frames of one size, whose masks may overlap; S of each, C classes.

    masks: bool [B, S, H, W]. scores: float32 [B, S, C], of the classes 1..C. boxes: float32
    [B, S, 4], corners x1 y1 x2 y2 in pixels. kept: bool [B, S], those that there are.
    """

    masks: jax.Array
    scores: jax.Array
    boxes: jax.Array
    kept: jax.Array


class VOSModel(nn.Module):
    """Base class: what a system implements.

    Memory is a pytree whose shapes depend only on the frame size, the number of object slots and
    the number of reference frames it has room for, so a video of any length compiles once. Capacity
    that is not used yet holds zeros, which lets `inference.streaming` grow a memory by zero-padding
    it. Every array of it has the batch as its first axis; scalars are shared by the batch.
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

    def reference_frames(self, length: int, seed: int) -> tuple[int, ...]:
        """Frames of a video of `length` that are to be observed before the first one; none."""
        return ()

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
        """Memory after the first frame.

        masks: given ones, or None; always None where `Traits.guidance` is "none". num_references:
        how many frames with given masks, or observed frames, it must have room for.
        """
        raise TypeError(f"{type(self).__name__} lacks start")

    def segment(self, memory: Any, features: Any, train: bool = False) -> Any:
        """Prediction for a frame, in the system's own form (logits, odds, sigmoids)."""
        raise TypeError(f"{type(self).__name__} lacks segment")

    def memorize(self, memory: Any, features: Any, prediction: Any, masks: Any) -> Any:
        """Memory once the frame is done.

        masks: what stands for the frame, in the form of `feedback`. prediction: None for a frame
        that was not segmented; then masks is None, too, where the frame was only observed.
        """
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

    def instances(self, prediction: Any, size: tuple[int, int]) -> Instances:
        """What systems of single images answer: scored objects of known classes."""
        raise TypeError(f"{type(self).__name__} lacks instances")

    def feedback(self, prediction: Any, size: tuple[int, int]) -> Any:
        """What the system feeds back to itself: masks [B, N+1, H, W], see `Traits`.

        A system may feed back another form, such as coarse maps at its own size, and then has a
        `fit_masks`. `Traits.remembers_given` needs the usual form.
        """
        if self.traits.soft_feedback:
            return self.probabilities(prediction, size)
        slots = jax.eval_shape(lambda p: self.probabilities(p, size), prediction).shape[1]
        return one_hot(self.labels(prediction, size), slots - 1)

    def fit_masks(self, masks: jax.Array, features: Any) -> Any:
        """Given or true masks [B, N+1, H, W] of a frame in the form of `feedback`."""
        return masks

    def evidence(self, memory: Any, features: Any) -> dict[str, jax.Array]:
        """What the system goes by in a frame that comes next, for pictures of it; nothing.

        Named maps float32 [B, N, h, w] in about 0..1, at whatever size the system has them.
        """
        return {}

    def losses(
        self, predictions: Any, batch: Mapping[str, jax.Array], step: jax.Array, **settings: Any
    ) -> jax.Array:
        """Loss of each video [B], whose mean over the batch is minimised.

        predictions: [P, B, ...] of the last P frames of the clips. batch: labels [B, T, H, W] of
        all frames (see `of_predicted`), valid [B, N] and whatever else the examples hold. Where a
        mean is over all objects of a batch and not over videos, losses are scaled to that.
        """
        raise TypeError(f"{type(self).__name__} lacks losses")

    def example_inputs(self) -> tuple[Any, ...]:
        """Arguments of `__call__` with which variables are made; none depends on the size."""
        frame = self.preprocess(np.zeros((65, 65, 3), np.uint8))
        masks = one_hot(jnp.zeros((1, 65, 65), jnp.int32), 1)
        return jnp.stack([frame, frame])[:, None], masks, jnp.ones((1, 1), bool)

    def __call__(self, inputs: jax.Array, masks: jax.Array, valid: jax.Array) -> Any:
        """Segment the second of two frames [2, B, h, w, 3]; meets every parameter, for `init`."""
        shown = None if self.traits.guidance == "none" else masks
        memory = self.start(self.encode(inputs[0]), shown, valid)
        return self.segment(memory, self.encode(inputs[1]))


def of_predicted(labels: jax.Array, predictions: Any) -> jax.Array:
    """The labels [P, B, H, W] of the frames that predictions [P, B, ...] are of: a clip's last."""
    count = jax.tree.leaves(predictions)[0].shape[0]
    return jnp.swapaxes(labels[:, labels.shape[1] - count :], 0, 1)


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
        config: FILE:PRESET in configs of its published configuration; "": NAME.py:paper.
        measured: fields of the full-size model that `benchmark` measures, where they are not the
            released ones.
        warm_up: frames that are in its memory when `benchmark` measures a frame.
        exempt: name of a promise that every system keeps (see tests/systems/test_every_system.py)
            -> why this one does not.
        task: the family it belongs to, a key of `tasks.TASKS`.
    """

    model: type[VOSModel]
    from_official: Callable[[Mapping[str, np.ndarray], Mapping[str, Any]], Imported] | None = None
    tiny: Mapping[str, Any] = field(default_factory=dict)
    inference: tuple[str, ...] = ()
    config: str = ""
    parts: tuple[Part, ...] = ()
    measured: Mapping[str, Any] = field(default_factory=dict)
    warm_up: int = 1
    exempt: Mapping[str, str] = field(default_factory=dict)
    task: str = "vos"
