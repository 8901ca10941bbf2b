"""Window search behind `matching.local_matching`: tiles of queries times bands of pixels."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from vos_jax.ops import platforms
from vos_jax.ops.nearest import ABSENT, first_equal, scores, squared_norm, winner_gradient

TILE = (8, 16)  # queries (rows, columns) that share a band of previous pixels
CPU_TILES = 1  # of one batched product


def plan_tiles(query, window, kernel_bytes, precision):
    """How many tiles of query [B, h, w, C] are one batched product, as plans for `search_local`."""
    _, h, w, channels = query.shape
    th, tw, kh, kw = _tile_and_reach(h, w, window)
    tile, band = th * tw, (th + 2 * kh) * (tw + 2 * kw)
    each = tile * band * 4 + (tile + band) * channels * query.dtype.itemsize
    return platforms.make_plans(
        CPU_TILES, lambda limit: max(limit // each, 1), kernel_bytes, precision, query.dtype
    )


@partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
@partial(jax.jit, static_argnums=(3, 4, 5))
def search_local(query, previous, labels, num_labels, window, plans):
    """[B, h, w, C] twice, [B, h, w] -> [B, L, h, w]."""
    return _local_search(query, previous, labels, num_labels, window, plans, winners=False)[0]


@partial(jax.jit, static_argnums=(3, 4, 5))
def _local_forward(query, previous, labels, num_labels, window, plans):
    distances, index = _local_search(
        query, previous, labels, num_labels, window, plans, winners=True
    )
    return distances, (query, previous, index)


def _local_backward(num_labels, window, plans, saved, cotangent):
    query, previous, index = saved
    batch, h, w, channels = query.shape
    flat = (batch, h * w, channels)
    dquery, dprevious = winner_gradient(
        query.reshape(flat),
        previous.reshape(flat),
        index.reshape(batch, num_labels, 1, h * w),
        cotangent.reshape(batch, num_labels, h * w),
    )
    return dquery.reshape(query.shape), dprevious.reshape(query.shape), None


search_local.defvjp(_local_forward, _local_backward)


def _local_search(query, previous, labels, num_labels, window, plans, winners):
    """Distances [B, L, h, w] and, if asked for, pixel indices [B, L, h, w] (-1: no such pixel)."""
    search = partial(_search_tiles, num_labels=num_labels, window=window, winners=winners)
    nearest, index = platforms.run(search, plans, query, previous, labels)
    distances = nearest + squared_norm(query)[:, None]
    return jnp.where(nearest < ABSENT / 2, distances, ABSENT), index


def _search_tiles(query, previous, labels, num_labels, window, winners, plan):
    """Smallest |y|^2 - 2 x.y over the window, [B, L, h, w], and the pixel that has it."""
    batch, h, w, channels = query.shape
    th, tw, kh, kw = _tile_and_reach(h, w, window)
    bh, bw = th + 2 * kh, tw + 2 * kw
    rows, columns = -(-h // th), -(-w // tw)
    fill = (0, rows * th - h), (0, columns * tw - w)
    border = (kh, kh + fill[0][1]), (kw, kw + fill[1][1])
    query = jnp.pad(-2 * query, ((0, 0), *fill, (0, 0)))
    previous = jnp.pad(previous, ((0, 0), *border, (0, 0)))
    labels = jnp.pad(labels, ((0, 0), *border), constant_values=-1)
    outside = _outside_window(th, tw, kh, kw)

    def search_tile(i):
        y, x = i // columns * th, i % columns * tw
        tile = lax.dynamic_slice(query, (0, y, x, 0), (batch, th, tw, channels))
        band = lax.dynamic_slice(previous, (0, y, x, 0), (batch, bh, bw, channels))
        band = band.reshape(batch, bh * bw, channels)
        owner = lax.dynamic_slice(labels, (0, y, x), (batch, bh, bw)).reshape(batch, 1, bh * bw)
        norms = jnp.where(
            owner == np.arange(num_labels)[:, None], squared_norm(band)[:, None], ABSENT
        )
        d = scores(band, outside, tile.reshape(batch, -1, channels), plan.precision, winners)
        d = d[:, None] + norms[..., None]  # [B, L, band, tile], fused into the minimum
        nearest = jnp.min(d, axis=2, keepdims=True)
        if not winners:
            return (nearest[:, :, 0],)
        index = first_equal(d, nearest, axis=2)[:, :, 0]
        pixel = (y - kh + index // bw) * w + x - kw + index % bw
        return nearest[:, :, 0], jnp.where(nearest[:, :, 0] < ABSENT / 2, pixel, -1)

    def assemble(r):  # [tiles, B, L, th * tw] -> [B, L, h, w]
        r = r.reshape(rows, columns, batch, num_labels, th, tw).transpose(2, 3, 0, 4, 1, 5)
        return r.reshape(batch, num_labels, rows * th, columns * tw)[:, :, :h, :w]

    results = [assemble(r) for r in platforms.map_parts(search_tile, rows * columns, plan.size)]
    return results[0], results[1] if winners else None


def _tile_and_reach(h, w, window):
    """Height and width of a tile, and half sizes of the window, which ends with the image."""
    return min(TILE[0], h), min(TILE[1], w), min(window, h - 1), min(window, w - 1)


def _outside_window(th, tw, kh, kw):
    """[band, tile]: 0 where the band pixel lies in the query's window, ABSENT elsewhere."""
    by, bx, qy, qx = np.ogrid[: th + 2 * kh, : tw + 2 * kw, :th, :tw]
    inside = (by >= qy) & (by <= qy + 2 * kh) & (bx >= qx) & (bx <= qx + 2 * kw)
    return np.where(inside, 0, ABSENT).astype(np.float32).reshape(-1, th * tw)
