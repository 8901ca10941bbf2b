"""One way through a video, for every system: segment, feed back, memorise.

`advance` is one frame; `rollout` goes through a clip with it (training and tests), and `streaming`
calls it one jitted frame at a time, so training and inference walk the same code. `answer` is its
first half, for a frame after which nothing comes.
"""

from typing import Any

import jax
import jax.numpy as jnp

from vos_jax.models.protocol import VOSModel

UNROLLED = 3  # so few predicted frames, as in training, are no loop: XLA does better without


def advance(
    model: VOSModel,
    memory: Any,
    features: Any,
    size: tuple[int, int],
    given: jax.Array | None = None,
    new: jax.Array | None = None,
    truth: jax.Array | None = None,
    taught: jax.Array | None = None,
) -> tuple[Any, Any, jax.Array]:
    """Segment one frame and remember it. Call it inside `model.apply(..., method=advance)`.

    Args:
      memory, features: of the system.
      size: (H, W) of the original frame.
      given: masks [B, N+1, H, W] handed over with this frame, or None when none are.
      new: bool [B, N], the objects of `given` that enter the memory (first seen or corrected).
      truth, taught: masks to remember instead of the prediction while `taught`, a bool [], is true
        (training).

    Returns:
      memory, prediction, and the masks [B, N+1, H, W] that stand for this frame (given ones pasted
      where the system pastes).
    """
    memory, prediction, masks = answer(model, memory, features, size, given, new)
    remembered = masks if taught is None else jnp.where(taught, truth, masks)
    memory = model.memorize(memory, features, prediction, remembered)
    if given is not None and model.introduces == "after":
        memory = model.introduce(memory, features, given, new)
    return memory, prediction, masks


def answer(
    model: VOSModel,
    memory: Any,
    features: Any,
    size: tuple[int, int],
    given: jax.Array | None = None,
    new: jax.Array | None = None,
) -> tuple[Any, Any, jax.Array]:
    """`advance` up to the point where the frame would be remembered; same arguments and results."""
    if given is not None and model.introduces == "before":
        memory = model.introduce(memory, features, given, new)
    prediction = model.segment(memory, features)
    masks = model.feedback(prediction, size)
    if given is not None and model.pastes:
        masks = paste(masks, given, new)
    return memory, prediction, masks


def paste(masks: jax.Array, given: jax.Array, new: jax.Array) -> jax.Array:
    """Masks [B, N+1, H, W] with the pixels of the `new` objects taken from `given`."""
    objects = given[:, 1:] * new[:, :, None, None]
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
    observed: int = 1,
    taught: jax.Array | None = None,
    train: bool = False,
    rng: jax.Array | None = None,
) -> tuple[Any, Any, dict[str, Any]]:
    """Run a system over clips.

    Args:
      inputs: prepared frames [B, T, h, w, 3].
      masks: [B, T, N+1, H, W]; the first `observed` frames are shown to the system, the others are
        looked at only where `given` says so, or while `taught`.
      valid: bool [B, N], real object slots.
      given: bool [B, T, N], the objects handed over at each frame after the first; None: none.
      observed: how many leading frames are remembered with their masks instead of being segmented.
      taught: bool [], whether the true masks are remembered after each frame instead of the
        prediction (teacher forcing); it may change from step to step without a compilation. None:
        never, and nothing is computed for it.
      train: dropout, sampling and live BatchNorm; needs `rng`.

    Returns:
      predictions of the frames observed..T-1, stacked in time [T - observed, B, ...];
      the masks [T - observed, B, N+1, H, W] that stand for these frames;
      the batch statistics after the pass (unchanged unless live): all frames count for what
      `encode` normalises, the first one for what `start` does.
    """
    frames, size = inputs.shape[1], masks.shape[-2:]
    rngs = {}
    if train:
        rngs = dict(zip(("dropout", "sample"), jax.random.split(rng), strict=True))
    features, updated = _encode_clip(model, variables, inputs, train, rngs)
    masks, at = jnp.moveaxis(masks, 1, 0), lambda t: jax.tree.map(lambda x: x[t], features)

    memory, more = model.apply(
        {**variables, **updated},
        at(0),
        masks[0],
        valid if given is None else given[:, 0],
        references=1 if given is None else frames,
        train=train,
        method=model.start,
        rngs=rngs,
        mutable=["batch_stats"] if train else [],
    )
    updated = {**updated, **more}
    for t in range(1, observed):
        memory = model.apply(variables, memory, at(t), None, masks[t], method=model.memorize)

    def call(method, memory, xs, **options):
        features, masks, new = xs
        given = None if new is None else masks
        return model.apply(variables, memory, features, size, given, new, method=method, **options)

    def frame(memory, xs):
        truth = None if taught is None else xs[1]
        memory, *seen = call(advance, memory, xs, truth=truth, taught=taught)
        return memory, seen

    new = None if given is None else jnp.moveaxis(given, 1, 0)
    rest = jax.tree.map(lambda x: x[observed:], (features, masks, new))
    if frames - observed > UNROLLED:
        _, (predictions, believed) = jax.lax.scan(frame, memory, rest)
    else:
        seen = []
        for t in range(frames - observed - 1):
            memory, found = frame(memory, jax.tree.map(lambda x, t=t: x[t], rest))
            seen.append(found)
        _, *found = call(answer, memory, jax.tree.map(lambda x: x[-1], rest))
        predictions, believed = jax.tree.map(lambda *x: jnp.stack(x), *seen, found)
    return predictions, believed, updated.get("batch_stats", variables.get("batch_stats", {}))


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
