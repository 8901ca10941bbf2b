"""A memory of frames with fixed capacity: which frames stay, and which one makes room.

STM's rule (Oh et al., ICCV 2019, section 3.4; released eval_DAVIS.py): the first frame stays, every
n-th frame stays, and the frame before the current one is there for one step. Here all of them lie
in slots of one array whose shape never changes, so a video of any length compiles once. As long as
the slots suffice the memory is exactly the released code's; after that one kept frame makes room
for each new one. A frame with given masks counts as a first frame.

Slots that are free hold zeros in all their marks, so a bank may be grown by zero-padding. Each
video of a batch has marks of its own, and a slot counts only for the objects that its frame knew.

Glossary: B videos, N objects, T slots, P pixels of a frame, C and D channels of keys and values.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import struct
from jax.sharding import Mesh, NamedSharding, PartitionSpec

EVICTION = ("oldest", "thin")
AXIS = "memory"  # of a mesh over whose devices a bank is spread
_FAR = jnp.iinfo(jnp.int32).max


class Rule(NamedTuple):
    """What is remembered.

    first: the first frame and those with given masks, for good. previous: the frame before the
    current one. every: every n-th frame; 0: none. eviction: of the every-n-th frames, when the
    slots are full, the "oldest" goes, or ("thin") the one whose neighbours in time are closest
    together, so that the others stay spread over the whole past.
    """

    first: bool = True
    previous: bool = True
    every: int = 5
    eviction: str = "thin"


def slots_needed(length: int, every: int) -> int:
    """Slots in which a video of `length` frames fits without eviction, at least 2."""
    return max((length - 3) // every + 2 if every else 2, 2)


@struct.dataclass
class MemoryBank:
    """Slots, what they hold, and how many frames went by."""

    keys: jax.Array  # [B, N, T, P, C]
    values: jax.Array  # [B, N, T, P, D]
    known: jax.Array  # bool [B, N, T], the object was known when the frame was written
    number: jax.Array  # int32 [B, T], number of the frame, counted from 1; 0: free
    pinned: jax.Array  # bool [B, T], never makes room
    written: jax.Array  # int32 [B], frames written so far
    parts: int = struct.field(pytree_node=False, default=1)  # which are filled evenly


def empty(keys: jax.Array, values: jax.Array, slots: int, parts: int = 1) -> MemoryBank:
    """A bank with room for `slots` frames like keys [B, N, P, C] and values [B, N, P, D].

    The slots are rounded up to a multiple of `parts`, in which they lie one after the other.
    """
    batch, objects = keys.shape[:2]
    slots = -(-slots // parts) * parts

    def room(x):
        return jnp.zeros((batch, objects, slots, *x.shape[2:]), x.dtype)

    return MemoryBank(
        keys=room(keys),
        values=room(values),
        known=jnp.zeros((batch, objects, slots), bool),
        number=jnp.zeros((batch, slots), jnp.int32),
        pinned=jnp.zeros((batch, slots), bool),
        written=jnp.zeros(batch, jnp.int32),
        parts=parts,
    )


def spread(bank: MemoryBank, mesh: Mesh) -> MemoryBank:
    """The bank with each of its parts on a device of the mesh, and its marks on all of them."""
    frames = NamedSharding(mesh, PartitionSpec(None, None, AXIS))
    whole = jax.tree.map(lambda _: NamedSharding(mesh, PartitionSpec()), bank)
    return jax.lax.with_sharding_constraint(bank, whole.replace(keys=frames, values=frames))


def write(
    bank: MemoryBank, keys: jax.Array, values: jax.Array, known: jax.Array, rule: Rule
) -> MemoryBank:
    """The bank with the next frame in it: keys [B, N, P, C], values [B, N, P, D], known [B, N].

    It takes a free slot, else that of the previous frame if that one does not stay, else that of
    an evicted frame.
    """
    slots = bank.number.shape[1]
    order = jnp.arange(slots).reshape(bank.parts, -1).T.reshape(-1)

    def write_video(bank, keys, values, known):
        passing = (bank.number > 0) & ~_stays(bank, rule)
        number = jnp.where(passing, 0, bank.number)
        full = jnp.all(number > 0)
        free = order[jnp.argmin(number[order] > 0)]
        slot = jnp.where(full, _evicted(number, bank.pinned, rule), free)
        written = bank.written + 1
        return bank.replace(
            keys=bank.keys.at[:, slot].set(keys),
            values=bank.values.at[:, slot].set(values),
            known=(bank.known & ~passing).at[:, slot].set(known),
            number=number.at[slot].set(written),
            pinned=bank.pinned.at[slot].set(False),
            written=written,
        )

    return jax.vmap(write_video)(bank, keys, values, known)


def give(bank: MemoryBank, new: jax.Array, rule: Rule) -> MemoryBank:
    """The bank once the objects in `new` bool [B, N] were given in the frame written last."""
    last = bank.number == bank.written[:, None]
    given = new.any(axis=1)
    pinned = bank.pinned | (last & given[:, None]) if rule.first else bank.pinned
    return bank.replace(known=bank.known | (last[:, None] & new[..., None]), pinned=pinned)


def readable(bank: MemoryBank, rule: Rule) -> jax.Array:
    """Which slots the next frame may look at, bool [B, N, T]."""
    if rule.previous:
        return bank.known
    return bank.known & jax.vmap(lambda bank: _stays(bank, rule))(bank)[:, None]


def _stays(bank, rule):
    """Slots whose frame is more than the previous one, bool [T] of one video."""
    if not rule.every:
        return bank.pinned
    return bank.pinned | ((bank.number > 0) & ((bank.number - 1) % rule.every == 0))


def _evicted(number, pinned, rule):
    """The slot that makes room, when none of number [T] is free."""
    candidate = ~pinned
    if rule.eviction == "thin":
        before = jnp.where(number < number[:, None], number, 0).max(axis=1)
        after = jnp.where(number > number[:, None], number, _FAR).min(axis=1)
        # after the newest one comes the next frame that stays, not the previous frame
        gap = jnp.minimum(after, number + max(rule.every, 1)) - before
        gap = jnp.where(candidate, gap, _FAR)
        candidate &= gap == gap.min()
    return jnp.argmin(jnp.where(candidate, number, _FAR))
