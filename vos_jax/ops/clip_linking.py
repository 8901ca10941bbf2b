"""Instances of overlapping clips, linked into instances of the video (MaskProp).

Bertasius and Torresani, CVPR 2020, section 3.4. A clip is centred at every frame t and holds the
frames within T of it; its instances, found in frame t, have a mask in each of them. Clips at most
2 T apart share frames, and two of their instances match as well as their masks agree there:

    m = mean over the shared frames of sIoU,      q(y) = mean of m over earlier instances with id y

An instance takes the id with the largest q if that exceeds a threshold, and a new id otherwise. New
ids are given once all instances of a clip have been scored, in their order. Several instances of a
clip may take one id; `exclusive` leaves it to the one with the largest q and gives the others their
next best.

A frame in which both masks are empty has a sIoU of 0, as the equation says, and so two clips that
share frames in which their object is hidden agree less the longer it is. `skip_empty` leaves out
frames in which neither mask reaches 1/2 anywhere.

What a clip can meet is a window of 2 T clips, of fixed size: a ring, so that a video of any length
is linked by one compiled program. Frames beyond the ends of the video are not shared.

Glossary: T reach, K = 2 T + 1 frames of a clip, D instance slots, R = 2 T places of the ring, h w
the grid.
"""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from vos_jax.ops.soft_iou import soft_ious

NO_ID = -1


@struct.dataclass
class Window:
    """The clips that the next one may share frames with."""

    masks: jax.Array  # float32 [R, D, K, h, w]
    real: jax.Array  # bool [R, K]: frames inside of the video; none of a place not used yet
    ids: jax.Array  # int32 [R, D], NO_ID where there is no instance
    centre: jax.Array  # int32 [R], frame that the clip of each place is centred at
    time: jax.Array  # int32 [], frame of the next clip
    next_id: jax.Array  # int32 []


def start_window(reach: int, slots: int, grid: tuple[int, int]) -> Window:
    """Before the first clip. With reach 0 clips share nothing, and every instance is a new one."""
    places, frames = max(2 * reach, 1), 2 * reach + 1
    return Window(
        masks=jnp.zeros((places, slots, frames, *grid)),
        real=jnp.zeros((places, frames), bool),
        ids=jnp.full((places, slots), NO_ID, jnp.int32),
        centre=jnp.zeros(places, jnp.int32),
        time=jnp.int32(0),
        next_id=jnp.int32(0),
    )


def link(
    window: Window,
    masks: jax.Array,
    valid: jax.Array,
    real: jax.Array,
    threshold: float,
    exclusive: bool = False,
    skip_empty: bool = False,
) -> tuple[Window, jax.Array]:
    """The ids of a clip's instances, and the window with that clip in it.

    Args:
        masks: [D, K, h, w] in 0..1 of the clip centred at frame window.time.
        valid: bool [D], slots that hold an instance.
        real: bool [K], frames of the clip that are in the video.
        threshold: q must exceed it.
        exclusive: whether instances of a clip must have different ids.
        skip_empty: whether frames count only where one of the two masks is not empty.

    Returns:
        The window for the next frame's clip, ids int32 [D] (NO_ID where not valid).
    """
    scores = match_scores(window, masks, real, skip_empty)  # [D, R, D]
    known = window.ids.reshape(-1)
    same = (known[:, None] == known) & (known >= 0)
    scores = scores.reshape(len(valid), -1)
    mean = jnp.dot(scores, same.astype(jnp.float32), precision=jax.lax.Precision.HIGHEST)
    mean = mean / jnp.maximum(same.sum(axis=0), 1)
    q = jnp.where((known >= 0) & valid[:, None], mean, -1.0)
    q = jnp.where(q > threshold, q, -1.0)
    ids = _assign_each(q, known) if exclusive else _assign_all(q, known)
    new = valid & (ids < 0)
    ids = jnp.where(new, window.next_id + jnp.cumsum(new) - 1, ids).astype(jnp.int32)
    place = window.time % len(window.ids)
    window = window.replace(
        masks=window.masks.at[place].set(masks),
        real=window.real.at[place].set(real),
        ids=window.ids.at[place].set(ids),
        centre=window.centre.at[place].set(window.time),
        time=window.time + 1,
        next_id=window.next_id + new.sum(dtype=jnp.int32),
    )
    return window, ids


def match_scores(
    window: Window, masks: jax.Array, real: jax.Array, skip_empty: bool = False
) -> jax.Array:
    """m of each new instance with each of the window: float32 [D, R, D].

    0 where no frame is shared; masks, real and skip_empty as in `link`.
    """
    frames = jnp.arange(len(real))

    def shown(masks):  # [K, D]
        return jnp.max(masks, axis=(2, 3)).T >= 0.5

    later = window.time - window.centre  # frame k of the new clip is frame k + later there

    def with_clip(other, other_real, later):
        place = frames + later
        shared = real & (place < len(real)) & other_real[place % len(real)]
        other = jnp.roll(other, -later, axis=1)
        agreement = soft_ious(jnp.moveaxis(masks, 1, 0), jnp.moveaxis(other, 1, 0))  # [K, D, D]
        counted = jnp.broadcast_to(shared[:, None, None], agreement.shape)
        if skip_empty:
            counted &= shown(masks)[:, :, None] | shown(other)[:, None, :]
        total = jnp.where(counted, agreement, 0.0).sum(axis=0)
        return total / jnp.maximum(counted.sum(axis=0), 1)

    found = jax.lax.map(lambda x: with_clip(*x), (window.masks, window.real, later))
    return jnp.moveaxis(found, 0, 1)


def link_clips(
    clips: Sequence[np.ndarray],
    reach: int,
    threshold: float,
    exclusive: bool = False,
    skip_empty: bool = False,
) -> list[np.ndarray]:
    """The ids of all instances of a video.

    Args:
        clips: one for each frame of the video, masks [n, 2 reach + 1, h, w] of its n instances
            (n may be 0) in the frames around it; those beyond the video are not looked at.
        reach: T.
        threshold, exclusive, skip_empty: as in `link`.

    Returns:
        int32 [n] for each clip, from 0.
    """
    for t, clip in enumerate(clips):
        if clip.ndim != 4 or clip.shape[1:] != (2 * reach + 1, *clips[0].shape[2:]):
            raise ValueError(
                f"clips[{t}]: expected masks [n, {2 * reach + 1}, h, w] of one grid with "
                f"reach {reach}, found {clip.shape} (clips[0] has {clips[0].shape})"
            )
    if not clips:
        return []
    slots = max(1, *(len(clip) for clip in clips))
    window = start_window(reach, slots, clips[0].shape[2:])
    how = dict(threshold=threshold, exclusive=exclusive, skip_empty=skip_empty)
    step, found = jax.jit(partial(link, **how)), []
    for t, clip in enumerate(clips):
        frames = t + np.arange(-reach, reach + 1)
        padded = np.zeros((slots, *clip.shape[1:]), np.float32)
        padded[: len(clip)] = clip
        valid, real = np.arange(slots) < len(clip), (frames >= 0) & (frames < len(clips))
        window, ids = step(window, padded, valid, real)
        found.append(np.asarray(ids)[: len(clip)])
    return found


def _assign_all(q, known):
    """The id with the largest q of each instance, the smallest of equal ones; NO_ID: below 0."""
    best = q.max(axis=1, keepdims=True)
    last = jnp.iinfo(jnp.int32).max
    ids = jnp.where((q == best) & (q >= 0), known, last).min(axis=1)
    return jnp.where(ids == last, NO_ID, ids)


def _assign_each(q, known):
    """The same, each id once: the largest q of all is granted first."""

    def grant(state, _):
        q, ids = state
        row = jnp.argmax(q.max(axis=1))
        ident = _assign_all(q[row][None], known)[0]
        granted = ident >= 0
        ids = jnp.where(granted, ids.at[row].set(ident), ids)
        taken = granted & ((known == ident) | (jnp.arange(len(q)) == row)[:, None])
        return (jnp.where(taken, -1.0, q), ids), None

    ids = jnp.full(len(q), NO_ID, jnp.int32)
    return jax.lax.scan(grant, (q, ids), length=len(q))[0][1]
