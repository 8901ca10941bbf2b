"""Deformable convolution: every tap of the kernel reads where an offset says.

Dai et al., "Deformable Convolutional Networks", ICCV 2017 (v1); Zhu et al., "Deformable ConvNets
v2", CVPR 2019, with a factor for each tap. Conventions of torchvision, mmcv and Detectron2: offsets
are (dy, dx) of one tap after the other, reading is bilinear, and what lies outside is 0.

One tap of all pixels is gathered at a time and multiplied with its part of the kernel, so that
memory does not grow with the kernel.

Glossary: B images, H W and h w their grid and that of the output, C and D channels, K taps, G
groups of offsets.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


def deform_conv(
    x: jax.Array,
    offset: jax.Array,
    kernel: jax.Array,
    bias: jax.Array | None = None,
    mask: jax.Array | None = None,
    strides: int = 1,
    padding: int = 0,
    dilation: int = 1,
    groups: int = 1,
    offset_groups: int = 1,
) -> jax.Array:
    """Deformable convolution of images.

    Args:
        x: [B, H, W, C].
        offset: [B, h, w, G * K * 2] in cells of x; the last axis is group, tap (row by row), and
            dy before dx.
        kernel: [kh, kw, C / groups, D].
        bias: [D], or None.
        mask: factors [B, h, w, G * K] (v2), or None.
        strides, padding, dilation: of both axes, in cells.
        groups: of channels, each convolved by itself.
        offset_groups: G; each part of C / G channels has offsets of its own.

    Returns:
        float32 [B, h, w, D].
    """
    taps = kernel.shape[0] * kernel.shape[1]
    _check(x, offset, kernel, mask, groups, offset_groups)
    batch, height, width, channels = x.shape
    grid = offset.shape[1:3]
    offset = offset.reshape(batch, *grid, offset_groups, taps, 2)
    factors = jnp.ones(offset.shape[:-1]) if mask is None else mask.reshape(offset.shape[:-1])
    origin = tap_origins(grid, kernel.shape[:2], strides, padding, dilation)
    table = x.reshape(batch, height * width, offset_groups, -1).astype(jnp.float32)

    def add_tap(total, tap):
        weights, origin, offset, factor = tap
        columns = jax.vmap(_read, (0, 0, 0, None))(table, origin + offset, factor, (height, width))
        columns = columns.reshape(batch, *grid, groups, channels // groups)
        part = jnp.einsum("bhwgc,cgd->bhwgd", columns, weights, precision=lax.Precision.HIGHEST)
        return total + part, None

    weights = kernel.reshape(taps, channels // groups, groups, -1)
    by_tap = (weights, origin, jnp.moveaxis(offset, 4, 0), jnp.moveaxis(factors, 4, 0))
    empty = jnp.zeros((batch, *grid, groups, weights.shape[-1]))
    total = lax.scan(add_tap, empty, by_tap)[0].reshape(batch, *grid, -1)
    return total if bias is None else total + bias


def tap_origins(
    grid: tuple[int, int], kernel: tuple[int, int], strides: int, padding: int, dilation: int
) -> np.ndarray:
    """Where taps read without an offset: (y, x) float32 [K, h, w, 1, 2]."""
    rows, columns = (
        np.arange(taps)[:, None] * dilation + np.arange(cells) * strides - padding
        for taps, cells in zip(kernel, grid, strict=True)
    )
    shape = (*kernel, *grid)
    y = np.broadcast_to(rows[:, None, :, None], shape)
    x = np.broadcast_to(columns[None, :, None, :], shape)
    places = np.stack([y, x], axis=-1).astype(np.float32)
    return places.reshape(-1, *grid, 1, 2)


def corners(places: jax.Array, size: tuple[int, int]) -> list[tuple[jax.Array, jax.Array]]:
    """The four cells around places (y, x) [..., 2]: (index int32 [...], weight float32 [...]).

    The index is that of a flat map of `size`; weights are bilinear, 0 outside of it.
    """
    low = jnp.floor(places)
    share = places - low
    found = []
    for dy in (0, 1):
        for dx in (0, 1):
            y, x = low[..., 0] + dy, low[..., 1] + dx
            inside = (y >= 0) & (y < size[0]) & (x >= 0) & (x < size[1])
            weight = jnp.abs(1 - dy - share[..., 0]) * jnp.abs(1 - dx - share[..., 1])
            index = jnp.clip(y, 0, size[0] - 1) * size[1] + jnp.clip(x, 0, size[1] - 1)
            found.append((index.astype(jnp.int32), weight * inside))
    return found


def _read(table, places, factor, size):
    """Bilinear values [h, w, G, c] of table [H W, G, c] at places [h, w, G, 2], times factor."""
    group = jnp.arange(table.shape[1])
    values = (table[i, group] * weight[..., None] for i, weight in corners(places, size))
    return sum(values) * factor[..., None]


def _check(x, offset, kernel, mask, groups, offset_groups):
    taps = kernel.shape[0] * kernel.shape[1]
    expected = {
        "offset": (offset.shape[-1], offset_groups * taps * 2),
        "mask": (offset_groups * taps if mask is None else mask.shape[-1], offset_groups * taps),
        "kernel's input": (kernel.shape[2] * groups, x.shape[-1]),
    }
    for name, (found, wanted) in expected.items():
        if found != wanted:
            raise ValueError(
                f"deform_conv: expected {wanted} channels of the {name}, found {found} "
                f"({taps} taps, {groups} groups, {offset_groups} groups of offsets)"
            )
