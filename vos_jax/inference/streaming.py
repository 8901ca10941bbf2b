"""Segment a video frame by frame: bounded memory, any length, objects may appear on the way.

    segmenter = VideoSegmenter(model, variables)
    labels = segmenter.step(first_frame, first_mask)
    for frame in frames:
        labels = segmenter.step(frame)

Each kind of step is compiled once for a frame size and an object bucket (1, 2, 4, 8, ... slots) and
shared by all segmenters of the same model. Objects may be added or corrected at any frame by
handing over a mask.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from vos_jax.data.clip import VOID, object_ids
from vos_jax.inference.rollout import advance, paste
from vos_jax.systems.base import VOSModel, one_hot


class VideoSegmenter:
    """Holds the memory of one video.

    Args:
        model: a system (vos_jax.systems).
        variables: its variables.
        slots: object slots to start with, when it is known how many objects will come; otherwise
            the slots grow with the objects, with one compilation for each doubling.

    Attributes:
        ids: the ids of the objects met so far, in the order of their slots.
    """

    def __init__(self, model: VOSModel, variables: dict[str, Any], slots: int | None = None):
        if model.mesh is not None:
            variables = jax.device_put(variables, NamedSharding(model.mesh, PartitionSpec()))
        self._model, self._variables = model, variables
        self._start, self._step, self._probabilities = compiled(model)
        self._fewest_slots = slots or 1
        self.reset()

    def reset(self) -> None:
        """Forget the video; the next step starts another."""
        self.ids: list[int] = []
        self._memory, self._last, self._size = None, None, None
        self._slots, self._references = 0, 1

    def step(self, frame: np.ndarray, labels: np.ndarray | None = None) -> np.ndarray:
        """Segment the next frame.

        Args:
            frame: uint8 [H, W, 3] RGB.
            labels: None, or a given mask as a label map [H, W] with ids 1..254 (0 background, 255
                unknown). Needed at the first frame; later its objects are added, or corrected where
                the id is known.

        Returns:
            uint8 [H, W]: the id of each pixel, in the ids of the given masks. The first frame's
            mask comes back as given.

        Raises:
            ValueError: no mask or an empty one at the first frame, or sizes that do not agree.
        """
        frame = self._checked_frame(frame)
        if labels is None:
            if self._memory is None:
                raise ValueError("the first frame needs masks: a label map [H, W] with ids 1..254")
            return self._advance(frame, None, None)
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

    def _begin(self, frame: np.ndarray, labels: np.ndarray, given: list[int]) -> np.ndarray:
        if not given:
            raise ValueError(
                "the first mask holds no object: expected an id in 1..254, found only 0 and 255"
            )
        self.ids, self._size = given, frame.shape[:2]
        self._slots = bucket(max(len(given), self._fewest_slots))
        valid = _marked(given, given, self._slots)
        self._memory = self._start(
            self._variables, self._prepare(frame), self._to_slots(labels), valid, num_references=1
        )
        self._last = labels
        return labels.copy()

    def _advance(
        self, frame: np.ndarray, labels: np.ndarray | None, given: list[int] | None
    ) -> np.ndarray:
        inputs, new = self._prepare(frame), None
        if given is not None:
            self._make_room(given, inputs)
            labels, new = self._to_slots(labels), _marked(self.ids, given, self._slots)
        self._memory, prediction, found, pasted = self._step(
            self._variables, self._memory, inputs, labels, new, size=self._size
        )
        self._last = (prediction, pasted)
        return np.array([0, *self.ids], np.uint8)[np.asarray(found[0])]

    def _make_room(self, given: list[int], inputs: Any) -> None:
        """Grow the memory by zero-padding when new ids or one more reference frame do not fit."""
        self.ids = self.ids + [i for i in given if i not in self.ids]
        references, slots = self._references + 1, bucket(max(len(self.ids), self._slots))
        if slots > self._slots or bucket(references) > bucket(self._references):
            shapes = jax.eval_shape(
                functools.partial(self._start, num_references=bucket(references)),
                self._variables,
                inputs,
                jax.ShapeDtypeStruct((1, *self._size), np.uint8),
                jax.ShapeDtypeStruct((1, slots), bool),
            )
            self._memory = jax.tree.map(_pad_to, self._memory, shapes)
            self._slots = slots
        self._references = references

    def _to_slots(self, labels: np.ndarray) -> np.ndarray:
        """Ids -> slots 1.. in the order of `self.ids`; uint8 [1, H, W]."""
        table = np.zeros(256, np.uint8)
        table[self.ids] = np.arange(1, len(self.ids) + 1)
        table[VOID] = VOID
        return table[labels][None]

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
def compiled(model: VOSModel) -> tuple[Callable, Callable, Callable]:
    """The jitted functions of a model: start, step, probabilities."""

    @functools.partial(jax.jit, static_argnames="num_references")
    def start(variables, inputs, labels, valid, *, num_references):
        features = model.apply(variables, inputs, method=model.encode)
        masks = one_hot(labels, valid.shape[1])
        return model.apply(variables, features, masks, valid, num_references, method=model.start)

    @functools.partial(jax.jit, static_argnames="size", donate_argnums=1)
    def step(variables, memory, inputs, labels, new, *, size):
        features = model.apply(variables, inputs, method=model.encode)
        given_masks = None if labels is None else one_hot(labels, new.shape[1])
        memory, prediction, masks = model.apply(
            variables, memory, features, size, given_masks, new, method=advance
        )
        if given_masks is None or not model.traits.pastes:
            found = model.apply(variables, prediction, size, method=model.labels)
            return memory, prediction, found, None
        found = jnp.argmax(masks, axis=1).astype(jnp.uint8)
        return memory, prediction, found, (given_masks, new)

    @functools.partial(jax.jit, static_argnames="size")
    def probabilities(variables, prediction, pasted, *, size):
        masks = model.apply(variables, prediction, size, method=model.probabilities)
        return masks if pasted is None else paste(masks, *pasted)

    return start, step, probabilities


def _marked(ids: list[int], marked: list[int], slots: int) -> np.ndarray:
    """bool [1, slots]: which of the slots of `ids` are in `marked`."""
    row = np.zeros((1, slots), bool)
    row[0, : len(ids)] = [i in marked for i in ids]
    return row


def _pad_to(x: jax.Array, target: jax.ShapeDtypeStruct) -> jax.Array:
    """Zero-pad every axis at its end."""
    if x.shape == target.shape:
        return x
    return jnp.pad(x, [(0, m - n) for n, m in zip(x.shape, target.shape, strict=True)])
