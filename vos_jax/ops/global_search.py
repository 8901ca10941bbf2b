"""Exhaustive search behind `matching.global_matching`: sorted blocks, running minima per label."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from vos_jax.ops import platforms
from vos_jax.ops.nearest import (
    ABSENT,
    first_equal,
    label_sizes,
    rounded,
    scores,
    shares,
    squared_norm,
    winner_gradient,
)

# Of one product: reference pixels, at least so many where there are enough, and on CPU queries of
# the whole batch. [512, 2560] float32 stays in the L2/L3 cache.
BLOCK = 512
CPU_QUERIES = 2560


class Size(NamedTuple):
    """Of one product: queries of each row of the batch, and reference pixels."""

    chunk: int
    block: int


def plan_products(query, reference, num_labels, k, kernel_bytes, precision):
    """How large the products of [B, Q, C] and [B, P, C] are, as plans for `search_global`."""
    (batch, queries, _), pixels = query.shape, reference.shape[1]
    smallest = max(min(BLOCK, pixels), k)

    def size(chunk, block):
        return Size(max(min(chunk, queries), 1), block)

    def fitting(limit):
        room = limit // 4
        # labels fill their last blocks in part, which costs little as long as each has several
        block = min(max(room // queries, smallest), max(pixels // (2 * num_labels), smallest))
        return size(room // block, block)

    cpu = size(CPU_QUERIES // batch, smallest)
    return platforms.make_plans(cpu, fitting, kernel_bytes, precision, query.dtype)


@partial(jax.custom_vjp, nondiff_argnums=(4, 5, 6))
@partial(jax.jit, static_argnums=(4, 5, 6))
def search_global(query, reference, labels, count, num_labels, k, plans):
    """[B, Q, C], [B, P, C], [B, P], [] -> mean of the k smallest distances [B, L, Q]."""
    return _global_search(query, reference, labels, count, num_labels, k, plans, winners=False)[0]


@partial(jax.jit, static_argnums=(4, 5, 6))
def _global_forward(query, reference, labels, count, num_labels, k, plans):
    distances, index = _global_search(
        query, reference, labels, count, num_labels, k, plans, winners=True
    )
    return distances, (query, reference, index)


def _global_backward(num_labels, k, plans, saved, cotangent):
    query, reference, index = saved
    dquery, dreference = winner_gradient(query, reference, index, cotangent)
    return dquery, dreference, None, None


search_global.defvjp(_global_forward, _global_backward)


def _global_search(query, reference, labels, count, num_labels, k, plans, winners):
    """Distances [B, L, Q] and, if asked for, reference indices [B, L, k, Q] (-1: no such pixel)."""
    labels = jnp.where(jnp.arange(labels.shape[1]) < count, labels, -1)
    search = partial(_sort_and_search, num_labels=num_labels, k=k, winners=winners)
    nearest, index = platforms.run(search, plans, query, reference, labels)
    return jnp.where(nearest[:, :, 0] < ABSENT / 2, _mean_of_nearest(nearest), ABSENT), index


def _sort_and_search(query, reference, labels, num_labels, k, winners, plan):
    """The k smallest distances [B, L, k, Q] and, if asked for, their reference indices."""
    source, owner, used = _label_blocks(labels, num_labels, plan.size.block)
    blocks = jax.vmap(lambda y, i: y[i])(reference, source)  # [B, blocks, S, C]
    norms = jnp.where(source < 0, ABSENT, squared_norm(blocks))
    nearest, slot = _search_blocks(query, blocks, norms, owner, used, num_labels, k, plan, winners)
    if not winners:
        return nearest, None
    source = source.reshape(source.shape[0], -1)
    index = jax.vmap(lambda s, i: s[i])(source, jnp.maximum(slot, 0))
    return nearest, jnp.where(nearest < ABSENT / 2, index, -1)


def _label_blocks(labels, num_labels, block):
    """Sort pixels into blocks of one label each.

    labels [B, P] -> source [B, blocks, S]: the pixel of each slot or -1; owner [B, blocks]: the
    label of each block; used []: the number of blocks that hold pixels, over the whole batch.
    Pixels keep their order within a label, so the lowest slot is the lowest pixel.
    """
    sizes = label_sizes(labels, num_labels)
    grouped = jnp.where((labels >= 0) & (labels < num_labels), labels, num_labels)
    order = jnp.argsort(grouped, axis=1, stable=True).astype(jnp.int32)
    first_pixel = jnp.cumsum(sizes, axis=1) - sizes
    blocks = -(-sizes // block)
    last_block = jnp.cumsum(blocks, axis=1)
    number = np.arange(labels.shape[1] // block + num_labels)
    owner = jnp.sum(number[:, None] >= last_block[:, None], axis=2)  # L beyond the used blocks
    owner = jnp.minimum(owner, num_labels - 1)

    def of_owner(per_label):
        return jnp.take_along_axis(per_label, owner, axis=1)[:, :, None]

    rank = (number - of_owner(last_block - blocks)[:, :, 0])[:, :, None] * block + np.arange(block)
    valid = rank < of_owner(sizes)
    place = jnp.where(valid, of_owner(first_pixel) + rank, 0)
    source = jax.vmap(lambda o, i: o[i])(order, place)
    return jnp.where(valid, source, -1), owner, jnp.max(last_block[:, -1])


def _search_blocks(query, blocks, norms, owner, used, num_labels, k, plan, winners):
    """The k smallest distances of each label, [B, L, k, Q] ascending, and their slots."""
    batch, queries, channels = query.shape
    steps, size = platforms.even_parts(queries, plan.size.chunk)
    query = jnp.pad(query, ((0, 0), (0, steps * size - queries), (0, 0)))
    chunks = jnp.moveaxis(query.reshape(batch, steps, size, channels), 1, 0)

    def search_chunk(x):
        own = squared_norm(x)[:, None]

        def visit(i, best):
            offset = rounded(norms[:, i, :, None] + own, x.dtype)
            d = scores(blocks[:, i], offset, -2 * x, plan.precision, winners)
            found = _smallest(d, k, winners)
            mine = (jnp.arange(num_labels) == owner[:, i, None])[:, :, None, None]
            if winners:
                found = found[0], found[1] + i * blocks.shape[2]
            merged = _merge(best, tuple(f[:, None] for f in found), k)
            return tuple(jnp.where(mine, new, old) for new, old in zip(merged, best, strict=True))

        shape = (batch, num_labels, k, size)
        best = (jnp.full(shape, ABSENT, jnp.float32),)
        if winners:
            best += (jnp.zeros(shape, jnp.int32),)
        return lax.fori_loop(0, used, visit, best)

    results = lax.map(search_chunk, chunks)  # each [steps, B, L, k, size]
    results = [
        jnp.moveaxis(r, 0, 3).reshape(batch, num_labels, k, steps * size)[..., :queries]
        for r in results
    ]
    return results[0], results[1] if winners else None


def _merge(best, found, k):
    """Merge ascending lists along axis 2; of equal values those of `best` come first."""
    if k == 1:
        closer = found[0] < best[0]
        return tuple(jnp.where(closer, new, old) for new, old in zip(found, best, strict=True))
    both = tuple(
        jnp.concatenate([old, jnp.broadcast_to(new, old.shape)], axis=2)
        for new, old in zip(found, best, strict=True)
    )
    both = lax.sort(both, dimension=2, num_keys=1, is_stable=True)
    return tuple(b[:, :, :k] for b in both)


def _smallest(d, k, winners):
    """The k smallest along axis 1 of [B, S, q], ascending [B, k, q], lowest index first."""
    if k > 1:
        values, index = lax.top_k(-jnp.swapaxes(d, 1, 2), k)
        found = -jnp.swapaxes(values, 1, 2), jnp.swapaxes(index, 1, 2)
        return found if winners else found[:1]
    value = jnp.min(d, axis=1, keepdims=True)
    return (value, first_equal(d, value)) if winners else (value,)


def _mean_of_nearest(nearest):
    """[B, L, k, Q] ascending, ABSENT beyond the pixels there are -> [B, L, Q]."""
    k = nearest.shape[2]
    if k == 1:
        return nearest[:, :, 0]
    return jnp.sum(jnp.where(nearest < ABSENT / 2, nearest, 0.0) * shares(nearest < ABSENT / 2), 2)
