"""Clips around every frame, and their links: MaskProp's inference, a frame at a time.

Bertasius and Torresani, CVPR 2020, sections 3.2 and 3.4. Each frame t is the centre of a clip of
2 T + 1 frames. Its instances are those that the detector found in t, and the branch carries their
masks to the other frames; instances of overlapping clips are linked where their masks agree
(ops/clip_linking.py). So the ids of frame t are known once frame t + T was seen: a frame is pushed
in, and the one T before comes out. What is kept is 2 T + 1 frames of reduced features and
detections and 2 T clips, of fixed sizes, so a video of any length needs one compilation and one
size of memory.

The first T pushes give clips of frames before the video (`Clip.real` is False at their centre), and
after its last frame T pushes that are not real bring out the rest. Frames outside of the video have
no share in any match.

Glossary: B videos, T reach, R = 2 T + 1 frames of a clip, D instance slots, h w the grid, C
channels. Frame k of a clip at t is frame t - T + k of the video.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from vos_jax.ops.clip_linking import Window, link, start_window

Branch = Callable[[jax.Array, jax.Array, jax.Array, jax.Array], jax.Array]


@struct.dataclass
class Frame:
    """What is kept of a frame; in `ClipMemory` with an axis [R] after the first."""

    features: jax.Array  # float32 [B, h, w, C], reduced
    masks: jax.Array  # float32 [B, D, h, w] in 0..1, what the detector found
    valid: jax.Array  # bool [B, D], slots that hold an instance
    real: jax.Array  # bool [B], whether the frame is of the video
    detections: Any  # arrays [B, ...] that come out with the ids


@struct.dataclass
class ClipMemory:
    """The last R frames, oldest first, and the clips that the next one may share frames with."""

    frames: Frame
    window: Window


@struct.dataclass
class Clip:
    """The instances of one clip, linked."""

    masks: jax.Array  # float32 [B, D, R, h, w] in 0..1
    real: jax.Array  # bool [B, R]
    ids: jax.Array  # int32 [B, D], -1 where there is no instance
    detections: Any  # of the centre frame


def start_clips(frame: Frame, reach: int) -> ClipMemory:
    """Memory before the first frame; frame: any, or its shapes alone (`jax.eval_shape`)."""
    count = 2 * reach + 1
    frames = jax.tree.map(lambda x: jnp.zeros((x.shape[0], count, *x.shape[1:]), x.dtype), frame)
    batch, slots, *grid = frame.masks.shape
    window = start_window(reach, slots, tuple(grid))
    window = window.replace(time=window.time - reach)  # of the clip that the first push completes
    window = jax.tree.map(lambda x: jnp.broadcast_to(x, (batch, *x.shape)), window)
    return ClipMemory(frames, window)


def push(
    branch: Branch,
    memory: ClipMemory,
    frame: Frame,
    reach: int,
    threshold: float,
    exclusive: bool = False,
    skip_empty: bool = False,
) -> tuple[ClipMemory, Clip]:
    """The next frame goes in, the clip that it completes comes out.

    Args:
        branch: `PropagationBranch`, (features, masks, valid, others) -> [B, K, D, h, w].
        memory: of `start_clips` or the push before.
        frame: the next one; after the video any with `real` False.
        reach: T.
        threshold, exclusive, skip_empty: of `ops.clip_linking.link`.
    """
    frames = jax.tree.map(
        lambda kept, x: jnp.concatenate([kept[:, 1:], x[:, None]], axis=1), memory.frames, frame
    )
    masks = carried_masks(branch, frames, reach)

    def link_one(window, masks, valid, real):
        return link(window, masks, valid, real, threshold, exclusive, skip_empty)

    valid = frames.valid[:, reach] & frames.real[:, reach, None]
    window, ids = jax.vmap(link_one)(memory.window, masks, valid, frames.real)
    centre = jax.tree.map(lambda x: x[:, reach], frames.detections)
    return ClipMemory(frames, window), Clip(masks, frames.real, ids, centre)


def carried_masks(branch: Branch, frames: Frame, reach: int) -> jax.Array:
    """The centre's masks in all frames of a clip, float32 [B, D, R, h, w].

    In the centre they are the detector's; where a frame or a slot is not real, they are 0.
    """
    valid = frames.valid[:, reach] & frames.real[:, reach, None]
    own = jnp.where(valid[..., None, None], frames.masks[:, reach], 0.0)
    if reach == 0:
        return own[:, :, None]
    found = branch(frames.features[:, reach], own, valid, _others(frames, reach))
    return _in_order(found, own, reach) * frames.real[:, None, :, None, None]


def carried_features(branch: Branch, frames: Frame, reach: int) -> jax.Array:
    """The features of the centre's instances in all frames of a clip, float32 [B, D, R, h, w, C].

    branch: `PropagationBranch.propagated`. The paper's figure 5.
    """
    features, masks = frames.features[:, reach], frames.masks[:, reach]
    own = features[:, None] * masks[..., None]
    if reach == 0:
        return own[:, :, None]
    return _in_order(branch(features, masks, _others(frames, reach)), own, reach)


def _others(frames, reach):
    """The features of all frames but the centre, [B, 2 T, h, w, C]."""
    return jnp.concatenate([frames.features[:, :reach], frames.features[:, reach + 1 :]], axis=1)


def _in_order(found, own, reach):
    """[B, 2 T, D, ...] of the other frames and [B, D, ...] of the centre -> [B, D, R, ...]."""
    found = jnp.swapaxes(found, 1, 2)
    return jnp.concatenate([found[:, :, :reach], own[:, :, None], found[:, :, reach:]], axis=2)
