"""Which object of the video a detection is: scores, decisions and memory of MaskTrack R-CNN.

Yang, Fan, Xu, ICCV 2019, arXiv 1905.04804, sections 4.2 and 4.3; released code:
youtubevos/MaskTrackRCNN, mmdet/models/detectors/two_stage.py (simple_test_bboxes). With embeddings
f_i of detections and g_n of known objects, column 0 standing for an object never seen,

    p_i(n) = exp(f_i g_n) / (1 + sum_m exp(f_i g_m)),   p_i(0) = 1 / (1 + sum_m exp(f_i g_m))
    v_i(n) = log p_i(n) + alpha log s_i + beta IoU(b_i, b_n) + gamma [c_i = c_n]

A detection goes to the column with the largest v. As released: column 0 has IoU 0 and counts as of
the detection's class, so that an object of another class hardly ever takes it; a known object takes
the detections that chose it, one after the other, as long as v grows, and others are dropped; those
it took before keep its identity (`unique_ids`: lose it), but only the last one is remembered; the
class of an object is that of its first detection forever.

The released loop over detections is one expression: a detection is taken if its v is above those of
all earlier ones that chose the same object. Its memory grows without end; ours has a capacity, and
the object not seen for longest makes room for a new one; identities never return.

Glossary: B videos, D detections (the best first), M places of the memory, E size of embeddings.
"""

import jax
import jax.numpy as jnp
from flax import struct

from vos_jax.ops.boxes import Geometry, iou
from vos_jax.systems.vis_base import Detections

_LEAST = -100.0  # an object takes no detection with a v that is not above it


@struct.dataclass
class Memory:
    """The known objects of each video."""

    embeddings: jax.Array  # float32 [B, M, E]
    boxes: jax.Array  # float32 [B, M, 4]
    classes: jax.Array  # int32 [B, M]
    ids: jax.Array  # int32 [B, M]
    used: jax.Array  # bool [B, M]
    unseen: jax.Array  # int32 [B, M]: frames since an object was last seen
    next_id: jax.Array  # int32 [B]


def empty_memory(videos: int, capacity: int, size: int) -> Memory:
    """Before the first frame; size: E."""
    zeros = jnp.zeros((videos, capacity), jnp.int32)
    return Memory(
        embeddings=jnp.zeros((videos, capacity, size)),
        boxes=jnp.zeros((videos, capacity, 4)),
        classes=zeros,
        ids=zeros,
        used=zeros > 0,
        unseen=zeros,
        next_id=jnp.zeros(videos, jnp.int32),
    )


def match_scores(embeddings: jax.Array, references: jax.Array, used: jax.Array) -> jax.Array:
    """Products of embeddings with those of known objects, column 0 first: its score is 0.

    [..., D, E], [..., M, E], bool [..., M] -> float32 [..., D, 1 + M]; -inf where there is none.
    """
    highest = jax.lax.Precision.HIGHEST
    scores = jnp.einsum("...de,...me->...dm", embeddings, references, precision=highest)
    scores = jnp.where(used[..., None, :], scores, -jnp.inf)
    return jnp.concatenate([jnp.zeros_like(scores[..., :1]), scores], axis=-1)


def comprehensive_scores(
    memory: Memory,
    detections: Detections,
    match_coeff: tuple[float, float, float],
    use_embedding: bool,
    geometry: Geometry,
) -> jax.Array:
    """v, float32 [B, D, 1 + M]; -inf for places that hold no object.

    match_coeff: (alpha, beta, gamma). use_embedding: whether log p counts.
    """
    alpha, beta, gamma = match_coeff
    matched = match_scores(detections.embeddings, memory.embeddings, memory.used)
    present = matched > -jnp.inf
    score = jax.nn.log_softmax(matched) if use_embedding else jnp.where(present, 0.0, -jnp.inf)
    score += alpha * jnp.log(jnp.where(detections.valid, detections.scores, 1.0))[..., None]
    overlaps = iou(detections.boxes, memory.boxes, geometry)
    alike = detections.classes[..., None] == memory.classes[:, None]
    new = ((0, 0), (0, 0), (1, 0))
    return score + beta * jnp.pad(overlaps, new) + gamma * jnp.pad(alike, new, constant_values=True)


def associate(
    memory: Memory, detections: Detections, v: jax.Array, unique_ids: bool = False
) -> tuple[Memory, jax.Array]:
    """The memory after a frame, and the identity of each detection, int32 [B, D]; -1: dropped."""
    return jax.vmap(lambda *x: _associate(*x, unique_ids))(memory, detections, v)


def _associate(memory, detections, v, unique_ids):
    """Of one video."""
    choice = jnp.argmax(v, axis=1)
    largest = jnp.max(v, axis=1)
    new = detections.valid & (choice == 0)
    places = jnp.arange(len(memory.used))
    chose = (choice[:, None] == 1 + places) & detections.valid[:, None]  # [D, M]
    bids = jnp.where(chose, largest[:, None], _LEAST)
    before = jnp.pad(jax.lax.cummax(bids, axis=0)[:-1], ((1, 0), (0, 0)), constant_values=_LEAST)
    taken = chose & (bids > before)
    order = jnp.arange(len(choice))
    last = jnp.max(jnp.where(taken, order[:, None], -1), axis=0)  # of each place, the one it keeps
    if unique_ids:
        taken &= order[:, None] == last
    ids = jnp.where(taken.any(axis=1), memory.ids[choice - 1], -1)
    ids = jnp.where(new, memory.next_id + jnp.cumsum(new) - 1, ids)
    memory = _remember(memory, detections, last)
    return _introduce(memory, detections, new, ids), ids


def _remember(memory, detections, last):
    """Objects look as they last did; last: [M], the detection of each, or -1."""
    seen = last >= 0
    at = jnp.maximum(last, 0)
    return memory.replace(
        embeddings=jnp.where(seen[:, None], detections.embeddings[at], memory.embeddings),
        boxes=jnp.where(seen[:, None], detections.boxes[at], memory.boxes),
        unseen=jnp.where(seen, 0, memory.unseen + 1),
    )


def _introduce(memory, detections, new, ids):
    """New objects take free places in their order, then those not seen for longest."""
    places = len(memory.used)
    longest_first = jnp.argsort(jnp.where(memory.used, -memory.unseen, jnp.iinfo(jnp.int32).min))
    rank = jnp.cumsum(new) - 1
    at = jnp.where(new & (rank < places), longest_first[rank % places], places)  # beyond: dropped

    def put(old, value):
        return old.at[at].set(value, mode="drop")

    return memory.replace(
        embeddings=put(memory.embeddings, detections.embeddings),
        boxes=put(memory.boxes, detections.boxes),
        classes=put(memory.classes, detections.classes),
        ids=put(memory.ids, ids),
        used=put(memory.used, True),
        unseen=put(memory.unseen, 0),
        next_id=memory.next_id + new.sum(dtype=jnp.int32),
    )
