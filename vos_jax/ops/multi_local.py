"""Nearest-neighbour matching in several nested windows at once, with gaps on request.

Multi-local matching of CFBI (Yang, Wei, Yang, ECCV 2020, section 3.1): for every query pixel, label
and window size the smallest squared distance |x - y|^2 to the pixels y of the previous frame that
lie in the window and carry the label; atrous matching of CFBI+ (TPAMI 2021): only displacements
that are multiples of a factor are looked at.

How it is computed. A tile of queries of one row is multiplied with the band of previous pixels that
its largest window touches; skewing the product puts the displacements of every query in one place,
where each window is a square in the middle. So all windows share one product and all labels too,
and each minimum is that of the next smaller window and of the ring around it. Memory is one
[tile, band] buffer and the minima, whatever the windows.

The gradient goes to the winner with the lowest row-major offset, saved as an index, so the backward
pass needs no more memory than the embeddings. Deviation from the released code: rounding, as in
`matching`.

Glossary: B batch, h w grid, C channels, L labels, n windows, T queries of a tile, r displacements
of the largest window to one side.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from vos_jax.ops import platforms
from vos_jax.ops.nearest import ABSENT, rounded, scores, squared_norm, winner_gradient

TILE = 32  # queries (columns of one row) that share a band of previous pixels
CPU_TILES = 4  # of one batched product


def multi_local_matching(
    query: jax.Array,
    previous: jax.Array,
    previous_labels: jax.Array,
    num_labels: int,
    windows: tuple[int, ...],
    rate: int = 1,
    precision: str = "highest",
    kernel_bytes: int = 0,
) -> jax.Array:
    """Smallest squared distance from each query pixel to each label in windows around it.

    Args:
        query: [B, h, w, C] float32, bfloat16 or float16.
        previous: [B, h, w, C], same dtype.
        previous_labels: [B, h, w] int; values outside 0..num_labels-1 are ignored.
        num_labels: L, static.
        windows: half sizes k, ascending, static: offsets -k..k on both axes, those outside the
            image ignored.
        rate: static; only offsets that are multiples of it are looked at.
        precision, kernel_bytes: see `platforms`.

    Returns:
        [B, h, w, L, n] float32, windows in the given order, ABSENT where the label has no pixel.
        Not clamped at 0.
    """
    if query.ndim != 4 or previous.shape != query.shape:
        raise ValueError(
            f"multi_local_matching: query and previous must both be [B, h, w, C], found "
            f"{query.shape} and {previous.shape}; bring both frames to one grid"
        )
    if previous_labels.shape != query.shape[:3]:
        raise ValueError(
            f"multi_local_matching: previous_labels must be [B, h, w] = {query.shape[:3]}, found "
            f"{previous_labels.shape}; resize the labels to the grid of the embeddings"
        )
    ascending = windows and all(a < b for a, b in zip((-1, *windows), windows, strict=False))
    if num_labels < 1 or rate < 1 or not ascending:
        raise ValueError(
            "multi_local_matching: expected num_labels >= 1, rate >= 1 and ascending windows >= 0, "
            f"found {num_labels}, {rate} and {windows}"
        )
    windows = tuple(windows)
    plans = _plan(query, windows, rate, kernel_bytes, precision)
    labels = previous_labels.astype(jnp.int32)
    distances = search_windows(query, previous, labels, num_labels, windows, rate, plans)
    return jnp.moveaxis(distances, (0, 2), (-1, -2))


def _plan(query, windows, rate, kernel_bytes, precision):
    """How many tiles of query [B, h, w, C] are one batched product."""
    _, h, w, channels = query.shape
    width = min(TILE, w)
    ry, rx = _reach(h, w, windows, rate)
    band = (2 * ry + 1) * (2 * rx * rate + width)
    skewed = 2 * (2 * ry + 1) * (2 * rx + 1)  # distances and labels
    each = (band + skewed) * width * 4 + (band + width) * channels * query.dtype.itemsize
    return platforms.make_plans(
        CPU_TILES, lambda limit: max(limit // each, 1), kernel_bytes, precision, query.dtype
    )


@partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5, 6))
@partial(jax.jit, static_argnums=(3, 4, 5, 6))
def search_windows(query, previous, labels, num_labels, windows, rate, plans):
    """[B, h, w, C] twice, [B, h, w] -> [n, B, L, h, w]."""
    return _search(query, previous, labels, num_labels, windows, rate, plans, winners=False)[0]


@partial(jax.jit, static_argnums=(3, 4, 5, 6))
def _forward(query, previous, labels, num_labels, windows, rate, plans):
    distances, index = _search(
        query, previous, labels, num_labels, windows, rate, plans, winners=True
    )
    return distances, (query, previous, index)


def _backward(num_labels, windows, rate, plans, saved, cotangent):
    query, previous, index = saved
    batch, h, w, channels = query.shape
    flat = (batch, h * w, channels)

    def by_video(x):  # [n, B, L, h, w] -> [B, n * L, h * w]
        return jnp.moveaxis(x, 1, 0).reshape(batch, -1, h * w)

    dquery, dprevious = winner_gradient(
        query.reshape(flat),
        previous.reshape(flat),
        by_video(index)[:, :, None],
        by_video(cotangent),
    )
    return dquery.reshape(query.shape), dprevious.reshape(query.shape), None


search_windows.defvjp(_forward, _backward)


def _search(query, previous, labels, num_labels, windows, rate, plans, winners):
    """Distances [n, B, L, h, w] and, if asked for, pixel indices of that shape (-1: none)."""
    search = partial(
        _search_tiles, num_labels=num_labels, windows=windows, rate=rate, winners=winners
    )
    nearest, index = platforms.run(search, plans, query, previous, labels)
    return jnp.where(nearest < ABSENT / 2, nearest, ABSENT), index


def _search_tiles(query, previous, labels, num_labels, windows, rate, winners, plan):
    """Smallest distance in each window, [n, B, L, h, w], and the pixel that has it."""
    batch, h, w, channels = query.shape
    width = min(TILE, w)
    columns = -(-w // width)
    ry, rx = _reach(h, w, windows, rate)
    border = (ry * rate, ry * rate), (rx * rate, rx * rate + columns * width - w)
    band = 2 * ry * rate + 1, 2 * rx * rate + width
    query = jnp.pad(query, ((0, 0), (0, 0), (0, columns * width - w), (0, 0)))
    previous = jnp.pad(previous, ((0, 0), *border, (0, 0)))
    labels = jnp.pad(labels, ((0, 0), *border), constant_values=-1)
    ids = jnp.arange(num_labels)[:, None, None, None]

    def search_tile(tile):
        y, x = tile // columns, tile % columns * width
        own = lax.dynamic_slice(query, (0, y, x, 0), (batch, 1, width, channels))[:, 0]
        near = lax.dynamic_slice(previous, (0, y, x, 0), (batch, *band, channels))[:, ::rate]
        owner = lax.dynamic_slice(labels, (0, y, x), (batch, *band))[:, ::rate]
        near = near.reshape(batch, -1, channels)
        norms = squared_norm(own)[:, :, None] + squared_norm(near)[:, None]
        d = scores(-2 * own, rounded(norms, own.dtype), near, plan.precision, winners)
        d = d.reshape(batch, width, 2 * ry + 1, band[1]).transpose(0, 2, 1, 3)
        d = _skew(d, 2 * rx * rate + 1)[..., ::rate].swapaxes(2, 3)  # [B, 2 ry + 1, 2 rx + 1, T]
        steps = range(0, 2 * rx * rate + 1, rate)
        owner = jnp.stack([owner[:, :, i : i + width] for i in steps], axis=2)
        d, owner = lax.optimization_barrier((d, owner))  # else every minimum would skew again
        d = jnp.where(owner[:, None] == ids, d[:, None], ABSENT)  # [B, L, 2 ry + 1, 2 rx + 1, T]
        found, nearest, inner = [], ABSENT, (-1, -1)
        for window in windows:
            ky, kx = min(window // rate, ry), min(window // rate, rx)
            for ring in _ring((ky, kx), inner, (ry, rx)):
                nearest = jnp.minimum(nearest, d[ring].min(axis=(2, 3), initial=ABSENT))
            found.append((nearest,))
            if winners:
                part = d[:, :, ry - ky : ry + ky + 1, rx - kx : rx + kx + 1]
                index = _winner(part, nearest, y - ky * rate, x - kx * rate, w, rate)
                found[-1] = nearest, index
            inner = ky, kx
        return tuple(jnp.stack(x) for x in zip(*found, strict=True))

    def assemble(x):  # [tiles, n, B, L, T] -> [n, B, L, h, w]
        x = jnp.moveaxis(x, 0, 3)
        return x.reshape(*x.shape[:3], h, columns * width)[..., :w]

    results = [assemble(x) for x in platforms.map_parts(search_tile, h * columns, plan.size)]
    return results[0], results[1] if winners else None


def _reach(h, w, windows, rate):
    """Displacements of the largest window to one side, in rows and columns."""
    return tuple(min(windows[-1], n - 1) // rate for n in (h, w))


def _ring(outer, inner, centre):
    """Slices of [B, L, rows, columns, T], together the displacements in `outer` beyond `inner`.

    Both (ky, kx) are half sizes of windows around the centre; (-1, -1) is the empty one, with which
    the row of the centre comes twice. A slice may be empty.
    """
    (ky, kx), (py, px), (cy, cx) = outer, inner, centre
    above, below = slice(cy - ky, cy - py), slice(cy + py + 1, cy + ky + 1)
    left, right = slice(cx - kx, cx - px), slice(cx + px + 1, cx + kx + 1)
    rows, columns = slice(cy - py, cy + py + 1), slice(cx - kx, cx + kx + 1)
    parts = (above, columns), (below, columns), (rows, left), (rows, right)
    return [(slice(None), slice(None), *part) for part in parts]


def _skew(x, length):
    """[..., T, W] -> [..., T, length]: row i from column i on."""
    *lead, rows, columns = x.shape
    flat = jnp.pad(x.reshape(*lead, rows * columns), [(0, 0)] * len(lead) + [(0, rows)])
    return flat.reshape(*lead, rows, columns + 1)[..., :length]


def _winner(d, nearest, y, x, w, rate):
    """Index of the first pixel at which d [B, L, a, b, T] is nearest [B, L, T]; -1: none.

    y, x: the pixel of the first displacement of the tile's first query.
    """
    shape = d.shape[2:]
    row = lax.broadcasted_iota(jnp.int32, shape, 0) * rate + y
    column = lax.broadcasted_iota(jnp.int32, shape, 1) * rate + x
    pixel = row * w + column + lax.broadcasted_iota(jnp.int32, shape, 2)
    first = jnp.where(d == nearest[:, :, None, None], pixel, jnp.iinfo(jnp.int32).max)
    return jnp.where(nearest < ABSENT / 2, first.min(axis=(2, 3)), -1)
