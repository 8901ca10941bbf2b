"""What a detector is trained towards: which box stands for which object, and which boxes count.

Faster R-CNN's rules (Ren et al., NIPS 2015): a box is positive whose IoU with an object is high
enough, negative where it is low with all, and neither between; in the first stage the best boxes of
an object count even where none is good. Of the boxes, some are drawn by chance. One function for
torchvision's Matcher and mmdet's MaxIoUAssigner, one for both samplers.

Shapes are fixed: objects and boxes that are padding are told by masks, and as many boxes as a draw
may have are returned with what they are. Draws follow from the key alone, not from how a batch lies
on devices.

Glossary: A boxes (anchors or proposals), G slots of objects.
"""

import jax
import jax.numpy as jnp

NEGATIVE, IGNORED = -1, -2


def match(
    overlaps: jax.Array,
    candidates: jax.Array,
    objects: jax.Array,
    positive: float,
    negative: float,
    low_quality: float | None = None,
    takes_over: bool = False,
) -> jax.Array:
    """The object of each box.

    Args:
        overlaps: IoU [A, G].
        candidates: bool [A]; other boxes are IGNORED and are nobody's best.
        objects: bool [G], slots that hold one.
        positive, negative: a box is positive with an IoU of at least the one, and negative below
            the other.
        low_quality: the boxes with an object's largest IoU (all of them, where several share it)
            are positive if that is at least so much. None: they are not. 0 is torchvision's rule,
            which makes every box positive that an object without any overlap is matched with.
        takes_over: such a box belongs to the object it is best for, the last one of several
            (mmdet); otherwise to the one it overlaps most (torchvision).

    Returns:
        int32 [A]: a slot, NEGATIVE or IGNORED. Of equal IoUs the first slot counts.
    """
    pairs = candidates[:, None] & objects
    # equality is tested below: nothing may compute an IoU twice, in two ways of rounding
    overlaps = jax.lax.optimization_barrier(jnp.where(pairs, jnp.asarray(overlaps), -1.0))
    largest, slot = overlaps.max(axis=1), jnp.argmax(overlaps, axis=1)
    matched = jnp.where(largest < negative, NEGATIVE, IGNORED)
    if low_quality is not None:
        best = overlaps.max(axis=0)
        revived = (overlaps == best) & (best >= low_quality) & pairs
        slots = jnp.arange(overlaps.shape[1])
        own = jnp.max(jnp.where(revived, slots, -1), axis=1) if takes_over else slot
        slot = jnp.where(revived.any(axis=1), own, slot)
        matched = jnp.where(revived.any(axis=1), slot, matched)
    matched = jnp.where(largest >= positive, slot, matched)
    return jnp.where(candidates, matched, IGNORED).astype(jnp.int32)


def sample(
    key: jax.Array, matched: jax.Array, count: int, positive_share: float
) -> tuple[jax.Array, jax.Array]:
    """Boxes drawn by chance, the positive ones first.

    Args:
        key: of the draw.
        matched: int [A], what `match` gave.
        count: how many are wanted; static.
        positive_share: of them, at most so many are positive (rounded down); negative ones fill the
            rest, as far as there are some.

    Returns:
        index int32 [count] and drawn bool [count]: which boxes, and whether the place is filled.
    """
    chance = jax.random.uniform(key, matched.shape)
    positive, negative = (
        _first(jnp.where(kind, chance, -1.0), most)
        for kind, most in (
            (matched >= 0, int(count * positive_share)),
            (matched == NEGATIVE, count),
        )
    )
    index = jnp.concatenate([positive[0], negative[0]])
    found = jnp.concatenate([positive[1], negative[1]])
    place = jnp.argsort(~found, stable=True)[:count]
    short = count - len(place)
    return jnp.pad(index[place], (0, short)), jnp.pad(found[place], (0, short))


def _first(priority, most):
    """Indices of the largest, at most so many, and whether they are not below 0."""
    value, index = jax.lax.top_k(priority, min(most, len(priority)))
    return index.astype(jnp.int32), value >= 0
