"""Segment a video frame by frame: bounded memory, any length, objects may appear on the way.

    segmenter = VideoSegmenter(model, variables)
    labels = segmenter.step(first_frame, first_mask)
    for frame in frames:
        labels = segmenter.step(frame)

Each kind of step is compiled once for a frame size and an object bucket (1, 2, 4, 8, ... slots) and
shared by all segmenters of the same model. Objects may be added or corrected at any frame by
handing over a mask. A system that finds its objects itself takes frames alone, and some look at
frames of the whole video beforehand: `observe`.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from vos_jax.data.clip import VOID, object_ids
from vos_jax.inference.rollout import advance, begin, paste
from vos_jax.systems.base import VOSModel, one_hot


class VideoSegmenter:
    """Holds the memory of one video.

    Args:
        model: a system (vos_jax.systems).
        variables: its variables.
        slots: object slots to start with, when it is known how many objects will come; otherwise
            the slots grow with the objects, with one compilation for each doubling.
        ids: ids that are known to come; they take the slots in this order, whenever they come.
            Where the order of objects counts (RVOS), it is that of the ids in official results.

    Attributes:
        ids: the ids of the objects in the order of their slots: those known to come, then the
            others in the order in which they were met; those of proposals are 1, 2, ...
    """

    def __init__(
        self,
        model: VOSModel,
        variables: dict[str, Any],
        slots: int | None = None,
        ids: Sequence[int] = (),
    ):
        if model.mesh is not None:
            variables = jax.device_put(variables, NamedSharding(model.mesh, PartitionSpec()))
        self._model, self._variables = model, variables
        self._start, self._step, self._probabilities, self._observe = compiled(model)
        self._fewest_slots = slots or 1
        self._known_ids = [int(i) for i in ids]
        self.reset()

    def reset(self) -> None:
        """Forget the video; the next step starts another."""
        self.ids: list[int] = []
        self._memory, self._last, self._size = None, None, None
        self._slots, self._references = 0, 1
        self._proposes = False

    def observe(self, frames: Sequence[np.ndarray]) -> None:
        """Look at frames of the video before its first step, as reference frames without masks.

        frames: uint8 [H, W, 3] RGB of one size. Which of a video's frames a system asks for is said
        by its `reference_frames`; evaluation and `segment` show it those.

        Raises:
            ValueError: no frame, another size, a video that has begun, or a system that takes its
                references with masks.
        """
        if self._model.traits.guidance == "masks":
            raise ValueError(
                f"{self._name} learns its objects from given masks, not from frames alone: hand "
                "the masks over with step(frame, labels)"
            )
        if self._memory is not None:
            raise ValueError("the video has begun: observe comes before its first step; call reset")
        if not len(frames):
            raise ValueError("expected one or more frames to observe, found none")
        frames = [self._checked_frame(frame) for frame in frames]
        if sizes := {frame.shape[:2] for frame in frames} - {frames[0].shape[:2]}:
            raise ValueError(
                f"expected frames of one size, found {frames[0].shape[:2]} and {min(sizes)}"
            )
        self._propose(frames[0])
        for frame in frames:
            self._memory = self._observe(
                self._variables,
                self._memory,
                self._prepare(frame),
                np.ones((1, self._slots), bool),
                num_references=len(frames),
            )

    def step(self, frame: np.ndarray, labels: np.ndarray | None = None) -> np.ndarray:
        """Segment the next frame, and wait for it.

        Args:
            frame: uint8 [H, W, 3] RGB.
            labels: None, or a given mask as a label map [H, W] with ids 1..254 (0 background, 255
                unknown). Needed at the first frame, unless the system finds objects itself; later
                its objects are added, or corrected where the id is known.

        Returns:
            uint8 [H, W]: the id of each pixel, in the ids of the given masks. The first frame's
            mask comes back as given.

        Raises:
            ValueError: no mask or an empty one at the first frame, sizes that do not agree, or a
                mask for a system or a video that goes without.
        """
        return self.dispatch(frame, labels)()

    def dispatch(
        self, frame: np.ndarray, labels: np.ndarray | None = None
    ) -> Callable[[], np.ndarray]:
        """`step` without waiting: a function that waits for the labels and returns them.

        The device goes on with the next frame while those of this one are looked at.
        """
        frame, guidance = self._checked_frame(frame), self._model.traits.guidance
        if labels is None:
            if self._memory is not None:
                return self._advance(frame, None, None)
            if guidance == "masks":
                raise ValueError("the first frame needs masks: a label map [H, W] with ids 1..254")
            return self._begin_alone(frame)
        if guidance == "none":
            raise ValueError(f"{self._name} finds its objects itself and takes no masks")
        if self._proposes:
            raise ValueError(
                "a mask cannot join a video that began without one: its ids are proposals; give "
                "masks from the first frame on, or call reset"
            )
        labels = self._checked_labels(frame, labels)
        given = object_ids(labels)
        if self._memory is None:
            return self._begin(frame, labels, given)
        if not given:
            return self._advance(frame, None, None)
        return self._advance(frame, labels, given)

    def probabilities(self) -> np.ndarray:
        """Of the last frame, float32 [K+1, H, W]: background, then `ids` in order."""
        if self._last is None:
            raise ValueError("no frame has been segmented yet: call step first")
        if isinstance(self._last, np.ndarray):  # the first frame: its mask is certain
            channels = [i == self._last for i in [0, *self.ids]]
            return np.stack(channels).astype(np.float32)
        channels = np.asarray(self._probabilities(self._variables, *self._last, size=self._size)[0])
        return channels[: len(self.ids) + 1]

    def evidence(self, frame: np.ndarray) -> dict[str, np.ndarray]:
        """What the system goes by in a frame that `step` gets next, for pictures of it.

        Returns:
            Named maps float32 [K, h, w], in the order of `ids`, as the system's `evidence` says;
            of the objects that are known before the frame, so none before the first one.
        """
        frame = self._checked_frame(frame)
        if self._memory is None:
            return {}
        maps = compiled_evidence(self._model)(self._variables, self._memory, self._prepare(frame))
        return {name: np.asarray(found[0, : len(self.ids)]) for name, found in maps.items()}

    @property
    def _name(self) -> str:
        return type(getattr(self._model, "model", self._model)).__name__  # of views: the system's

    def _begin(
        self, frame: np.ndarray, labels: np.ndarray, given: list[int]
    ) -> Callable[[], np.ndarray]:
        if not given:
            raise ValueError(
                "the first mask holds no object: expected an id in 1..254, found only 0 and 255"
            )
        self.ids = self._known_ids + [i for i in given if i not in self._known_ids]
        self._size = frame.shape[:2]
        self._slots = bucket(max(len(self.ids), self._fewest_slots))
        valid = mark(self.ids, given, self._slots)
        inputs, slot_labels = self._prepare(frame), to_slots(labels, self.ids)[None]
        self._memory, *_ = self._start(
            self._variables, inputs, slot_labels, valid, num_references=1, size=self._size
        )
        self._last = labels
        return labels.copy

    def _begin_alone(self, frame: np.ndarray) -> Callable[[], np.ndarray]:
        """The first frame of a video without given masks."""
        self._propose(frame)
        valid = np.ones((1, self._slots), bool)
        self._memory, prediction, found = self._start(
            self._variables, self._prepare(frame), None, valid, num_references=1, size=self._size
        )
        return self._answer(prediction, found, None)

    def _propose(self, frame: np.ndarray) -> None:
        """The proposals of the system are the objects."""
        self._proposes, self._slots = True, self._model.traits.proposals
        self.ids, self._size = list(range(1, self._slots + 1)), frame.shape[:2]

    def _advance(
        self, frame: np.ndarray, labels: np.ndarray | None, given: list[int] | None
    ) -> Callable[[], np.ndarray]:
        inputs, new = self._prepare(frame), None
        if given is not None:
            self._make_room(given, inputs)
            labels, new = to_slots(labels, self.ids)[None], mark(self.ids, given, self._slots)
        self._memory, prediction, found, pasted = self._step(
            self._variables, self._memory, inputs, labels, new, size=self._size
        )
        return self._answer(prediction, found, pasted)

    def _answer(self, prediction: Any, found: jax.Array, pasted: Any) -> Callable[[], np.ndarray]:
        """Slots -> ids, once they are there."""
        self._last = (prediction, pasted)
        ids = np.array([0, *self.ids], np.uint8)
        found.copy_to_host_async()
        return lambda: ids[np.asarray(found)[0]]

    def _make_room(self, given: list[int], inputs: Any) -> None:
        """Grow the memory by zero-padding when new ids or one more reference frame do not fit."""
        self.ids = self.ids + [i for i in given if i not in self.ids]
        references, slots = self._references + 1, bucket(max(len(self.ids), self._slots))
        if slots > self._slots or bucket(references) > bucket(self._references):
            room = dict(num_references=bucket(references), size=self._size)
            shapes, *_ = jax.eval_shape(
                functools.partial(self._start, **room),
                self._variables,
                inputs,
                jax.ShapeDtypeStruct((1, *self._size), np.uint8),
                jax.ShapeDtypeStruct((1, slots), bool),
            )
            self._memory = jax.tree.map(pad_to, self._memory, shapes)
            self._slots = slots
        self._references = references

    def _prepare(self, frame: np.ndarray) -> Any:
        return jax.tree.map(lambda x: x[None], self._model.preprocess(frame))

    def _checked_frame(self, frame: np.ndarray) -> np.ndarray:
        frame = np.asarray(frame)
        if frame.ndim != 3 or frame.shape[-1] != 3 or frame.dtype != np.uint8:
            raise ValueError(
                f"expected a frame uint8 [H, W, 3] in RGB, found {frame.dtype} {frame.shape}"
            )
        if self._size is not None and frame.shape[:2] != self._size:
            raise ValueError(
                f"expected a frame of {self._size[0]}x{self._size[1]} (height x width) like the "
                f"first one, found {frame.shape[0]}x{frame.shape[1]}; call reset() before another "
                "video"
            )
        return frame

    def _checked_labels(self, frame: np.ndarray, labels: np.ndarray) -> np.ndarray:
        labels = np.asarray(labels)
        if labels.shape != frame.shape[:2]:
            raise ValueError(
                f"expected masks as a label map of the frame's size {frame.shape[:2]}, found "
                f"shape {labels.shape}"
            )
        if not np.issubdtype(labels.dtype, np.integer) or labels.min() < 0 or labels.max() > VOID:
            raise ValueError(
                f"expected masks with integer ids 0..254 (255 unknown), found {labels.dtype} with "
                f"values {labels.min()}..{labels.max()}"
            )
        return labels.astype(np.uint8)


def bucket(count: int) -> int:
    """The smallest of 1, 2, 4, 8, ... not below `count`: padding to it keeps compilations few."""
    return 1 << max(count - 1, 0).bit_length()


# By the module's fields, which must therefore be hashable (`systems.build` makes lists tuples): two
# segmenters of equal models share their compiled programs.
@functools.lru_cache(maxsize=32)
def compiled(model: VOSModel) -> tuple[Callable, Callable, Callable, Callable]:
    """The jitted functions of a model: start, step, probabilities, observe."""

    def encode(variables, inputs):
        return model.apply(variables, inputs, method=model.encode)

    @functools.partial(jax.jit, static_argnames=("num_references", "size"))
    def start(variables, inputs, labels, valid, *, num_references, size):
        masks = None if labels is None else one_hot(labels, valid.shape[1])
        first = (encode(variables, inputs), size, masks, valid, num_references)
        memory, prediction = model.apply(variables, *first, method=begin)
        if prediction is None:
            return memory, None, None
        found = model.apply(variables, prediction, size, method=model.labels)
        return memory, prediction, found

    @functools.partial(jax.jit, static_argnames="size", donate_argnums=1)
    def step(variables, memory, inputs, labels, new, *, size):
        given_masks = None if labels is None else one_hot(labels, new.shape[1])
        frame = (memory, encode(variables, inputs), size, given_masks, new)
        memory, prediction = model.apply(variables, *frame, method=advance)
        found = model.apply(variables, prediction, size, method=model.labels)
        if given_masks is None or not model.traits.pastes:
            return memory, prediction, found, None
        pasted = (given_masks[:, 1:] * new[:, :, None, None]).any(axis=1)
        return memory, prediction, jnp.where(pasted, labels, found), (given_masks, new)

    @functools.partial(jax.jit, static_argnames="size")
    def probabilities(variables, prediction, pasted, *, size):
        masks = model.apply(variables, prediction, size, method=model.probabilities)
        return masks if pasted is None else paste(masks, *pasted)

    @functools.partial(jax.jit, static_argnames="num_references", donate_argnums=1)
    def observe(variables, memory, inputs, valid, *, num_references):
        features = encode(variables, inputs)
        if memory is None:
            first = (features, None, valid, num_references)
            return model.apply(variables, *first, method=model.start)
        return model.apply(variables, memory, features, None, None, method=model.memorize)

    return start, step, probabilities, observe


@functools.lru_cache(maxsize=8)
def compiled_evidence(model: VOSModel) -> Callable[[Any, Any, Any], dict[str, jax.Array]]:
    """The jitted function of variables, memory and a prepared frame that gives `evidence`."""

    @jax.jit
    def evidence(variables, memory, inputs):
        features = model.apply(variables, inputs, method=model.encode)
        return model.apply(variables, memory, features, method=model.evidence)

    return evidence


def to_slots(labels: np.ndarray, ids: Sequence[int]) -> np.ndarray:
    """Ids -> slots 1.. in the order of `ids`; uint8 [H, W]."""
    table = np.zeros(256, np.uint8)
    table[ids] = np.arange(1, len(ids) + 1)
    table[VOID] = VOID
    return table[labels]


def mark(ids: list[int], marked: list[int], slots: int) -> np.ndarray:
    """bool [1, slots]: which of the slots of `ids` are in `marked`."""
    row = np.zeros((1, slots), bool)
    row[0, : len(ids)] = [i in marked for i in ids]
    return row


def pad_to(x: jax.Array, target: jax.ShapeDtypeStruct) -> jax.Array:
    """Zero-pad every axis at its end."""
    if x.shape == target.shape:
        return x
    return jnp.pad(x, [(0, m - n) for n, m in zip(x.shape, target.shape, strict=True)])
