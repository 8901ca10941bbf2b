"""One way through a video, for every system: segment, feed back, memorise.

`advance` is one frame; `rollout` goes through a clip with it (training and tests), and `streaming`
calls it one jitted frame at a time, so training and inference walk the same code. `predict` is its
first half, for a frame after which nothing comes.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from vos_jax.systems.base import VOSModel

UNROLLED = 3  # so few predicted frames, as in training, are no loop: XLA does better without


def advance(
    model: VOSModel,
    memory: Any,
    features: Any,
    size: tuple[int, int],
    given_masks: jax.Array | None = None,
    new: jax.Array | None = None,
    true_masks: jax.Array | None = None,
    teacher_forcing: jax.Array | None = None,
) -> tuple[Any, Any, jax.Array]:
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
        Memory, prediction, and the masks [B, N+1, H, W] that stand for this frame (given ones
        pasted where the system pastes).
    """
    memory, prediction, masks = predict(model, memory, features, size, given_masks, new)
    remembered = masks
    if teacher_forcing is not None:
        remembered = jnp.where(teacher_forcing, true_masks, masks)
    memory = model.memorize(memory, features, prediction, remembered)
    if given_masks is not None and model.traits.introduces == "after":
        memory = model.introduce(memory, features, given_masks, new)
    return memory, prediction, masks


def predict(
    model: VOSModel,
    memory: Any,
    features: Any,
    size: tuple[int, int],
    given_masks: jax.Array | None = None,
    new: jax.Array | None = None,
) -> tuple[Any, Any, jax.Array]:
    """`advance` up to the point where the frame would be remembered; same arguments and results."""
    if given_masks is not None and model.traits.introduces == "before":
        memory = model.introduce(memory, features, given_masks, new)
    prediction = model.segment(memory, features)
    masks = model.feedback(prediction, size)
    if given_masks is not None and model.traits.pastes:
        masks = paste(masks, given_masks, new)
    return memory, prediction, masks


def paste(masks: jax.Array, given_masks: jax.Array, new: jax.Array) -> jax.Array:
    """Masks [B, N+1, H, W] with the pixels of the `new` objects taken from `given_masks`."""
    objects = given_masks[:, 1:] * new[:, :, None, None]
    owned = objects.sum(axis=1, keepdims=True)
    background = jnp.zeros_like(owned)
    return jnp.where(owned > 0, jnp.concatenate([background, objects], axis=1), masks)


def rollout(
    model: VOSModel,
    variables: dict[str, Any],
    inputs: jax.Array,
    masks: jax.Array,
    valid: jax.Array,
    *,
    given: jax.Array | None = None,
    num_given: int = 1,
    teacher_forcing: jax.Array | None = None,
    train: bool = False,
    rng: jax.Array | None = None,
) -> tuple[Any, jax.Array, dict[str, Any]]:
    """Run a system over clips.

    Args:
        inputs: prepared frames [B, T, h, w, 3].
        masks: [B, T, N+1, H, W]; the first `num_given` frames are shown to the system, the others
            are looked at only where `given` says so, or while `teacher_forcing`.
        valid: bool [B, N], real object slots.
        given: bool [B, T, N], the objects handed over at each frame after the first; None: none.
        num_given: how many leading frames are remembered with their masks instead of being
            segmented.
        teacher_forcing: bool [], whether the true masks are remembered after each frame instead of
            the prediction; it may change from step to step without a compilation. None: never, and
            nothing is computed for it.
        train: dropout, sampling and live BatchNorm; needs `rng`.

    Returns:
        Predictions of the frames num_given..T-1, stacked in time [T - num_given, B, ...]; the masks
        [T - num_given, B, N+1, H, W] that stand for these frames; the batch statistics after the
        pass (unchanged unless live): all frames count for what `encode` normalises, the first one
        for what `start` does.
    """
    rngs = {}
    if train:
        rngs = dict(zip(("dropout", "sample"), jax.random.split(rng), strict=True))
    features, updated = _encode_clip(model, variables, inputs, train, rngs)
    new = None if given is None else jnp.moveaxis(given, 1, 0)
    clip = _Frames(features, jnp.moveaxis(masks, 1, 0), new)

    # Statistics that `encode` has moved are those that `start` moves further.
    memory, more = _begin(model, {**variables, **updated}, clip, valid, num_given, train, rngs)
    updated = {**updated, **more}
    rest = clip.slice(num_given)
    walk = _scan if len(rest) > UNROLLED else _unroll
    predictions, masks = walk(model, variables, memory, rest, teacher_forcing)
    return predictions, masks, updated.get("batch_stats", variables.get("batch_stats", {}))


class _Frames(NamedTuple):
    """What is known of the frames of a clip before they are segmented, time first."""

    features: Any
    masks: jax.Array  # [T, B, N+1, H, W]
    new: jax.Array | None  # bool [T, B, N]

    def __len__(self) -> int:
        return len(self.masks)

    def at(self, t: int) -> "_Frames":
        return jax.tree.map(lambda x: x[t], self)

    def slice(self, start: int) -> "_Frames":
        return jax.tree.map(lambda x: x[start:], self)


def _encode_clip(model, variables, inputs, train, rngs):
    """Features of all frames [B, T, ...] in one pass, time first, and what the pass updates."""
    batch, frames = inputs.shape[:2]
    features, updated = model.apply(
        variables,
        inputs.reshape(batch * frames, *inputs.shape[2:]),
        train,
        method=model.encode,
        rngs=rngs,
        mutable=["batch_stats"] if train else [],
    )

    def time_first(x):
        return jnp.moveaxis(x.reshape(batch, frames, *x.shape[1:]), 1, 0)

    return jax.tree.map(time_first, features), updated


def _begin(model, variables, clip, valid, num_given, train, rngs):
    """Memory of the frames that are shown with their masks, and what starting it updates."""
    first = clip.at(0)
    memory, updated = model.apply(
        variables,
        first.features,
        first.masks,
        valid if first.new is None else first.new,
        num_references=1 if first.new is None else len(clip),
        train=train,
        method=model.start,
        rngs=rngs,
        mutable=["batch_stats"] if train else [],
    )
    for t in range(1, num_given):
        shown = clip.at(t)
        memory = model.apply(
            variables, memory, shown.features, None, shown.masks, method=model.memorize
        )
    return memory, updated


def _scan(model, variables, memory, frames, teacher_forcing):
    """Predictions and masks of all frames, by a loop that compiles once for any length."""

    def body(memory, frame):
        return _walk_frame(model, variables, memory, frame, teacher_forcing)

    return jax.lax.scan(body, memory, frames)[1]


def _unroll(model, variables, memory, frames, teacher_forcing):
    """The same without a loop; the last frame is not remembered, since nothing comes after it."""
    seen = []
    for t in range(len(frames) - 1):
        memory, found = _walk_frame(model, variables, memory, frames.at(t), teacher_forcing)
        seen.append(found)
    last = frames.at(len(frames) - 1)
    _, *found = _call(model, variables, predict, memory, last)
    return jax.tree.map(lambda *x: jnp.stack(x), *seen, tuple(found))


def _walk_frame(model, variables, memory, frame, teacher_forcing):
    forced = {}
    if teacher_forcing is not None:
        forced = dict(true_masks=frame.masks, teacher_forcing=teacher_forcing)
    memory, *found = _call(model, variables, advance, memory, frame, **forced)
    return memory, tuple(found)


def _call(model, variables, method, memory, frame, **options):
    given_masks = None if frame.new is None else frame.masks
    size = frame.masks.shape[-2:]
    return model.apply(
        variables, memory, frame.features, size, given_masks, frame.new, method=method, **options
    )
