"""One way through a video, for every system: segment, feed back, memorise.

`begin` is the first frame, `advance` every other one; `rollout` goes through a clip with them
(training and tests), and `streaming` calls them one jitted frame at a time, so training and
inference walk the same code. `predict` is the first half of `advance`, for a frame after which
nothing comes.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from vos_jax.nn.remat import blocks_are_recomputed
from vos_jax.systems.base import VOSModel

UNROLLED = 3  # so few frames, as in training, are no loop: XLA does better without


def begin(
    model: VOSModel,
    features: Any,
    size: tuple[int, int],
    masks: jax.Array | None,
    valid: jax.Array,
    num_references: int = 1,
    train: bool = False,
    teacher_forcing: jax.Array | None = None,
) -> tuple[Any, Any]:
    """Memory after the first frame. Call it inside `model.apply(..., method=begin)`.

    A system that segments its first frame does so with the memory that `start` made of it, and then
    remembers the given masks; what it found itself where none are given, or where `teacher_forcing`
    bool [] is there and false (training).

    Args:
        features: of the system.
        size: (H, W) of the original frame.
        masks: given ones [B, N+1, H, W], or None.
        valid: bool [B, N], the objects in them, or the slots of proposals.
        num_references: see `VOSModel.start`.

    Returns:
        Memory, and the prediction for the frame, None unless the system segments it.
    """
    shown = None if model.traits.guidance == "none" else masks
    memory = model.start(features, shown, valid, num_references, train)
    if not model.traits.segments_first:
        return memory, None
    prediction = model.segment(memory, features, train)
    if masks is not None and teacher_forcing is None:
        remembered = model.fit_masks(masks, features)
    else:
        fed = model.feedback(prediction, size)
        remembered = _forced(model, fed, features, masks, teacher_forcing)
    return model.memorize(memory, features, prediction, remembered), prediction


def advance(
    model: VOSModel,
    memory: Any,
    features: Any,
    size: tuple[int, int],
    given_masks: jax.Array | None = None,
    new: jax.Array | None = None,
    train: bool = False,
    true_masks: jax.Array | None = None,
    teacher_forcing: jax.Array | None = None,
) -> tuple[Any, Any]:
    """Segment one frame and remember it. Call it inside `model.apply(..., method=advance)`.

    Args:
        memory, features: of the system.
        size: (H, W) of the original frame.
        given_masks: masks [B, N+1, H, W] handed over with this frame, or None when none are.
        new: bool [B, N], the objects of `given_masks` that enter the memory (first seen or
            corrected).
        true_masks, teacher_forcing: masks to remember instead of the prediction while
            `teacher_forcing`, a bool [], is true (training).

    Returns:
        Memory and prediction.
    """
    memory, prediction = predict(model, memory, features, size, given_masks, new, train)
    fed = model.feedback(prediction, size)
    if given_masks is not None and model.traits.remembers_given:
        fed = paste(fed, given_masks, new)
    remembered = _forced(model, fed, features, true_masks, teacher_forcing)
    memory = model.memorize(memory, features, prediction, remembered)
    if given_masks is not None and model.traits.introduces == "after":
        memory = model.introduce(memory, features, given_masks, new)
    return memory, prediction


def predict(
    model: VOSModel,
    memory: Any,
    features: Any,
    size: tuple[int, int],
    given_masks: jax.Array | None = None,
    new: jax.Array | None = None,
    train: bool = False,
) -> tuple[Any, Any]:
    """`advance` up to the point where the frame would be remembered; same arguments and results."""
    if given_masks is not None and model.traits.introduces == "before":
        memory = model.introduce(memory, features, given_masks, new)
    return memory, model.segment(memory, features, train)


def paste(masks: jax.Array, given_masks: jax.Array, new: jax.Array) -> jax.Array:
    """Masks [B, N+1, H, W] with the pixels of the `new` objects taken from `given_masks`."""
    objects = given_masks[:, 1:] * new[:, :, None, None]
    owned = objects.sum(axis=1, keepdims=True)
    background = jnp.zeros_like(owned)
    return jnp.where(owned > 0, jnp.concatenate([background, objects], axis=1), masks)


def _forced(model, fed, features, true_masks, teacher_forcing):
    """What is remembered: `fed`, or the true masks while `teacher_forcing`."""
    if teacher_forcing is None or true_masks is None:
        return fed
    choose = functools.partial(jnp.where, teacher_forcing)
    return jax.tree.map(choose, model.fit_masks(true_masks, features), fed)


def rollout(
    model: VOSModel,
    variables: dict[str, Any],
    inputs: jax.Array,
    masks: jax.Array | None,
    valid: jax.Array,
    *,
    size: tuple[int, int] | None = None,
    given: jax.Array | None = None,
    num_given: int = 1,
    teacher_forcing: jax.Array | None = None,
    train: bool = False,
    frames_apart: bool = False,
    rng: jax.Array | None = None,
) -> tuple[Any, dict[str, Any]]:
    """Run a system over clips.

    Args:
        inputs: prepared frames [B, T, h, w, 3].
        masks: [B, T, N+1, H, W]; the first `num_given` frames are shown to the system, the others
            are looked at only where `given` says so, or while `teacher_forcing`. None: the system
            goes without.
        valid: bool [B, N], real object slots.
        size: (H, W) of the original frames, where there are no masks to tell it.
        given: bool [B, T, N], the objects handed over at each frame after the first; None: none.
        num_given: how many leading frames are remembered with their masks. 0, for systems that
            segment their first frame: `start` sees its masks, but it counts as predicted.
        teacher_forcing: bool [], whether the true masks are remembered after each predicted frame
            instead of the prediction; it may change from step to step without a compilation. None:
            never, and nothing is computed for it.
        train: dropout, sampling and live BatchNorm; needs `rng`.
        frames_apart: live statistics in `encode` are those of each frame alone, and the running
            ones move once for each; otherwise all frames are normalised together.

    Returns:
        Predictions of the frames num_given..T-1, stacked in time [T - num_given, B, ...]; without
        masks those of all frames that are segmented. The batch statistics after the pass (unchanged
        unless live), which all calls of the system moved, in order.

    Raises:
        ValueError: a `num_given` that the system cannot do, see `check_num_given`.
    """
    check_num_given(model, num_given)
    size = masks.shape[-2:] if size is None else size
    calls = _Calls(model, variables, train, rng)
    statistics = variables.get("batch_stats", {})
    features, statistics = _encode_clip(calls, statistics, inputs, frames_apart)
    masks = None if masks is None else jnp.moveaxis(masks, 1, 0)
    new = None if given is None else jnp.moveaxis(given, 1, 0)
    clip = _Frames(jnp.arange(inputs.shape[1]), features, masks, new)

    started, statistics = _begin(calls, statistics, clip, size, valid, num_given, teacher_forcing)
    memory, first = started
    rest = clip.slice(max(num_given, 1))
    walk = _scan if len(rest) > UNROLLED else _unroll
    predictions, statistics = walk(calls, statistics, memory, rest, size, teacher_forcing)
    if first is not None and (num_given == 0 or masks is None):
        predictions = _prepended(first, predictions)
    return predictions, statistics


def check_num_given(model: VOSModel, num_given: int) -> None:
    """Raises ValueError unless a clip can begin with so many frames whose masks are remembered."""
    least, most = (0, 1) if model.traits.segments_first else (1, None)
    if num_given < least or most is not None and num_given > most:
        words = "0 or 1, for it segments its first frame, too" if most else "1 or more"
        raise ValueError(
            f"config.train.num_given: {type(model).__name__} takes {words}, found {num_given}"
        )


class _Frames(NamedTuple):
    """What is known of the frames of a clip before they are segmented, time first."""

    index: jax.Array  # [T]
    features: Any
    masks: jax.Array | None  # [T, B, N+1, H, W]
    new: jax.Array | None  # bool [T, B, N]

    def __len__(self) -> int:
        return len(self.index)

    def at(self, t: int) -> "_Frames":
        return jax.tree.map(lambda x: x[t], self)

    def slice(self, start: int) -> "_Frames":
        return jax.tree.map(lambda x: x[start:], self)


class _Calls:
    """Calls of a model, which hand live statistics and random numbers on.

    `variables` are those of all calls but for the statistics.
    """

    def __init__(self, model: VOSModel, variables: dict[str, Any], train: bool, rng: Any):
        self.model, self.train = model, train
        self._variables = {k: v for k, v in variables.items() if k != "batch_stats"}
        self._keys = {}
        if train:
            self._keys = dict(zip(("dropout", "sample"), jax.random.split(rng), strict=True))

    def __call__(
        self, statistics: dict, method: Callable, *args: Any, frame: Any = None, **options: Any
    ) -> tuple[Any, dict]:
        """What a method gives, and the statistics after it; frame: its number, for random ones."""
        variables = {**self._variables, "batch_stats": statistics}
        if not self.train:
            return self.model.apply(variables, *args, method=method, **options), statistics
        keys = self._keys
        if frame is not None:
            keys = {name: jax.random.fold_in(key, frame) for name, key in keys.items()}
        found, updated = self.model.apply(
            variables, *args, method=method, rngs=keys, mutable=["batch_stats"], **options
        )
        return found, updated.get("batch_stats", statistics)


def _encode_clip(calls, statistics, inputs, apart):
    """Features of all frames [B, T, ...], time first, in one pass or in a pass for each."""
    encode, (batch, frames) = calls.model.encode, inputs.shape[:2]
    if apart:

        def body(statistics, frame):
            index, inputs = frame
            found, statistics = calls(statistics, encode, inputs, calls.train, frame=index)
            return statistics, found

        clip = jnp.arange(frames), jnp.moveaxis(inputs, 1, 0)
        statistics, features = jax.lax.scan(body, statistics, clip, unroll=frames <= UNROLLED)
        return features, statistics

    def time_first(x):
        return jnp.moveaxis(x.reshape(batch, frames, *x.shape[1:]), 1, 0)

    together = inputs.reshape(batch * frames, *inputs.shape[2:])
    features, statistics = calls(statistics, encode, together, calls.train)
    return jax.tree.map(time_first, features), statistics


def _begin(calls, statistics, clip, size, valid, num_given, teacher_forcing):
    """Memory of the frames that are shown with their masks, and the first frame's prediction."""
    first, model = clip.at(0), calls.model
    forcing = None
    if num_given == 0:
        forcing = jnp.bool_(False) if teacher_forcing is None else teacher_forcing
    (memory, prediction), statistics = calls(
        statistics,
        begin,
        first.features,
        size,
        first.masks,
        valid if first.new is None else first.new,
        num_references=1 if first.new is None else len(clip),
        train=calls.train,
        teacher_forcing=forcing,
    )
    for t in range(1, num_given):
        shown = clip.at(t)
        masks = shown.masks
        memory, statistics = calls(
            statistics, model.memorize, memory, shown.features, None, masks, frame=t
        )
    return (memory, prediction), statistics


def _scan(calls, statistics, memory, frames, size, teacher_forcing):
    """Predictions of all frames, by a loop that compiles once for any length."""

    def body(carry, frame):
        memory, statistics = carry
        (memory, prediction), statistics = _walk_frame(
            calls, statistics, memory, frame, size, teacher_forcing
        )
        return (memory, statistics), prediction

    if blocks_are_recomputed():  # of each frame no more is kept than what it hands on
        body = jax.checkpoint(body, prevent_cse=False)
    (_, statistics), predictions = jax.lax.scan(body, (memory, statistics), frames)
    return predictions, statistics


def _unroll(calls, statistics, memory, frames, size, teacher_forcing):
    """The same without a loop; the last frame is not remembered, since nothing comes after it."""
    seen = []
    for t in range(len(frames) - 1):
        (memory, prediction), statistics = _walk_frame(
            calls, statistics, memory, frames.at(t), size, teacher_forcing
        )
        seen.append(prediction)
    if len(frames):
        last = frames.at(len(frames) - 1)
        (_, prediction), statistics = _call(calls, statistics, predict, memory, last, size)
        seen.append(prediction)
    return jax.tree.map(lambda *x: jnp.stack(x), *seen) if seen else None, statistics


def _walk_frame(calls, statistics, memory, frame, size, teacher_forcing):
    forced = {}
    if teacher_forcing is not None:
        forced = dict(true_masks=frame.masks, teacher_forcing=teacher_forcing)
    return _call(calls, statistics, advance, memory, frame, size, **forced)


def _call(calls, statistics, method, memory, frame, size, **options):
    given_masks = None if frame.new is None else frame.masks
    given = (given_masks, frame.new, calls.train)
    return calls(
        statistics, method, memory, frame.features, size, *given, frame=frame.index, **options
    )


def _prepended(first: Any, predictions: Any) -> Any:
    """Predictions [T, B, ...] of a clip out of that of its first frame and those of the others."""
    first = jax.tree.map(lambda x: x[None], first)
    if predictions is None:
        return first
    return jax.tree.map(lambda *x: jnp.concatenate(x), first, predictions)
