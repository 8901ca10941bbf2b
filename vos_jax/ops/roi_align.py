"""RoIAlign: features of a box, resampled to a grid of fixed size.

He et al., "Mask R-CNN", ICCV 2017, section 3: every bin of the grid is the mean of bilinear samples
at regular places. A sample more than one cell outside the map is 0, others are clamped to it. What
a cell's centre is, how small an RoI may be and where a box ends follows from the `Geometry`; the
three of ops.boxes are torchvision's two (aligned or not) and mmdet 0.x's.

The samples of a bin are a product of places down and places across, so that RoIAlign has two forms
of one result. Gathered: the corners of the samples out of one table with the rows of all levels, so
that no level is touched for the boxes of another. Multiplied: weights [p, H] and [q, W] for each
box, two matrix products with every level, which is how a TPU reads; also the form where the number
of samples depends on the box. Each platform gets its own. Boxes have no gradient, as in every
release.

Glossary: R boxes, h w (or H W) cells of a map, C channels, p q bins, S samples of a bin along an
axis, L levels.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from vos_jax.ops.boxes import Geometry, areas
from vos_jax.ops.platforms import BYTES

Maps = Sequence[jax.Array]


def roi_align(
    x: jax.Array,
    boxes: jax.Array,
    size: int | tuple[int, int],
    scale: float,
    sampling: int,
    geometry: Geometry,
) -> jax.Array:
    """Features of boxes on one map.

    Args:
        x: [H, W, C].
        boxes: [R, 4] in pixels of the image; may leave it, and may have no area.
        size: (p, q), bins down and across, or one number for both.
        scale: cells of the map for each pixel, 1 / stride.
        sampling: samples of a bin along each axis; 0: as many as it has cells, rounded up, of each
            box by itself.
        geometry: the convention.

    Returns:
        float32 [R, p, q, C].
    """
    levels = jnp.zeros(len(boxes), jnp.int32)
    return roi_align_levels((x,), boxes, levels, size, (scale,), sampling, geometry)


def roi_align_levels(
    maps: Maps,
    boxes: jax.Array,
    levels: jax.Array,
    size: int | tuple[int, int],
    scales: Sequence[float],
    sampling: int,
    geometry: Geometry,
) -> jax.Array:
    """Features of boxes, each on a level of a pyramid: levels int [R], see `level_of`.

    maps: L of [h, w, C]; scales: one for each. Otherwise as `roi_align`.
    """
    bins = (size, size) if isinstance(size, int) else tuple(size)
    maps = tuple(jnp.asarray(x, jnp.float32) for x in maps)
    scale = jnp.asarray(scales, jnp.float32)[levels][:, None]
    start, length = lax.stop_gradient(_on_grid(jnp.asarray(boxes), scale, geometry))
    if sampling == 0:
        return _multiplied(maps, levels, start, length, bins=bins, sampling=0)

    def multiplied(maps, *where):
        return _multiplied(maps, *where, bins=bins, sampling=sampling)

    def gathered(maps, *where):
        return _gathered(maps, *where, bins=bins, sampling=sampling)

    where = (levels, start, length)
    return lax.platform_dependent(maps, *where, tpu=multiplied, default=gathered)


def level_of(boxes: jax.Array, count: int, finest: float, geometry: Geometry) -> jax.Array:
    """The level of a pyramid that each box is read from, int32 [...], 0 the finest of `count`.

    Lin et al., CVPR 2017, equation 1, with the constant that keeps exact powers of two on their
    level where each release has it. finest: the side, in pixels, from which a box leaves level 0
    is twice this (56 in the releases; there a box of 224 is of level 2).
    """
    side = jnp.sqrt(jnp.maximum(areas(boxes, geometry), 0.0)) / finest
    if geometry.inclusive:
        level = jnp.floor(jnp.log2(side + 1e-6))
    else:
        level = jnp.floor(jnp.log2(side) + 1e-6)
    return jnp.clip(level, 0, count - 1).astype(jnp.int32)


def _on_grid(boxes, scale, geometry):
    """Where boxes [R, 4] begin on their maps and how long they are: (y, x) [R, 2] each."""
    shift = 0.5 if geometry.aligned else 0.0
    start = boxes[:, 1::-1] * scale - shift
    end = (boxes[:, :1:-1] + geometry.extent) * scale - shift
    return start, jnp.maximum(end - start, geometry.min_size)


def _gathered(maps, levels, start, length, *, bins, sampling):
    """[R, p, q, C]: one corner of one sample of all bins at a time.

    A gather of whole rows vectorises, and the sum is all that is ever kept, also for the gradient,
    whose loop is the same with a scatter.
    """
    heights, widths = (np.array([x.shape[axis] for x in maps]) for axis in (0, 1))
    table = jnp.concatenate([x.reshape(-1, x.shape[-1]) for x in maps])
    first, width = (
        jnp.asarray(x)[levels][:, None] for x in (np.cumsum([0, *(heights * widths)[:-1]]), widths)
    )
    rows, down = _terms(start[:, 0], length[:, 0], bins[0], jnp.asarray(heights)[levels], sampling)
    columns, across = _terms(start[:, 1], length[:, 1], bins[1], width[:, 0], sampling)
    rows = first + rows * width

    def add(total, term):
        row, column, y_weight, x_weight = term
        values = table[row[:, :, None] + column[:, None]]
        return total + values * (y_weight[:, :, None] * x_weight[:, None])[..., None], None

    y, x = np.divmod(np.arange(len(rows) * len(columns)), len(columns))
    empty = jnp.zeros((len(levels), *bins, table.shape[1]))
    return lax.scan(add, empty, (rows[y], columns[x], down[y], across[x]))[0]


def _terms(start, length, bins, cells, sampling):
    """What is summed in each bin of an axis: cells int and weights [2 S, R, bins].

    start, length, cells: [R], of the RoIs and of their maps.
    """
    steps = (np.arange(sampling, dtype=np.float32) + 0.5) / sampling
    at = (np.arange(bins, dtype=np.float32) + steps[:, None, None]) / bins
    at = start[:, None] + length[:, None] * at
    last = cells[:, None] - 1
    inside = (at >= -1) & (at <= last + 1)
    at = jnp.clip(at, 0, last.astype(jnp.float32))
    low = jnp.floor(at).astype(jnp.int32)
    share, counted = at - low, inside / sampling
    return (
        jnp.concatenate([low, jnp.minimum(low + 1, last)]),
        jnp.concatenate([(1 - share) * counted, share * counted]),
    )


def _multiplied(maps, levels, start, length, *, bins, sampling):
    """[R, p, q, C] by products of weights with every level; as many boxes at a time as fit."""

    def of_box(box):
        level, start, length = box
        total = 0.0
        for i, x in enumerate(maps):
            down, across = (
                axis_weights(
                    start[None, axis], length[None, axis], bins[axis], x.shape[axis], sampling
                )[0]
                for axis in (0, 1)
            )
            down = down * (level == i)
            rows = jnp.einsum("ph,hwc->pwc", down, x, precision=lax.Precision.HIGHEST)
            total += jnp.einsum("pwc,qw->pqc", rows, across, precision=lax.Precision.HIGHEST)
        return total

    widest = max(4 * bins[0] * x.shape[1] * x.shape[2] for x in maps)
    at_once = max(BYTES["tpu"] // widest, 1)
    boxes = (levels, start, length)
    if len(levels) <= at_once:
        return jax.vmap(of_box)(boxes)
    return lax.map(jax.checkpoint(of_box), boxes, batch_size=at_once)


def axis_weights(
    start: jax.Array, length: jax.Array, bins: int, cells: int, sampling: int
) -> jax.Array:
    """What each cell of an axis counts in each bin of it: float32 [R, bins, cells].

    start, length: [R], where the RoIs begin and how long they are, in cells; sampling as in
    `roi_align`. However many samples a bin has, this is all the memory they take.
    """
    bin_length = length / bins
    counts = jnp.full(start.shape, sampling) if sampling else jnp.ceil(bin_length)
    counts = counts.astype(jnp.int32)
    at_bin = start[:, None] + bin_length[:, None] * np.arange(bins, dtype=np.float32)
    places = np.arange(cells, dtype=np.float32)

    def add_sample(i, total):
        step = (i + 0.5) / jnp.maximum(counts, 1)
        at = at_bin + (bin_length * step)[:, None]
        counted = (at >= -1) & (at <= cells) & (i < counts)[:, None]
        at = jnp.clip(at, 0, cells - 1)[..., None]
        return total + jnp.maximum(1 - jnp.abs(at - places), 0) * counted[..., None]

    most = sampling or jnp.max(counts, initial=0)
    total = lax.fori_loop(0, most, add_sample, jnp.zeros((len(start), bins, cells)))
    return total / jnp.maximum(counts, 1)[:, None, None]
