"""Convolution with a quick CPU path for depthwise, 1x1 and widely dilated kernels.

XLA:CPU runs grouped convolutions on one core, 10-50 times slower than memory allows, 1x1
convolutions at half the speed of a matrix product, and multiplies the zeros of the padding.
`conv_general_dilated` has the signature of `jax.lax.conv_general_dilated` and is handed to
`flax.linen.Conv(conv_general_dilated=...)`: names, kernel shapes and checkpoints stay those of an
ordinary layer. On CPU
- a depthwise kernel is a sum over its taps: a shifted slice of the input times a row of weights
  each, fused by XLA into one loop;
- a 1x1 kernel is a matrix product, after slicing if it has a stride;
- a kernel dilated so far that many of its taps fall outside of the image (the ASPP of DeepLab) is a
  matrix product per tap, with the pixels that it does meet.
Everything else, and every other platform, runs the library's convolution. The choice is made when
the program is lowered for a platform and costs nothing at run time.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

CHANNELS_LAST = lax.conv_dimension_numbers((1, 1, 1, 1), (1, 1, 1, 1), ("NHWC", "HWIO", "NHWC"))
INSIDE = 0.7  # up to this share of multiplications inside the image, taps are quicker one by one


def conv_general_dilated(
    lhs: jax.Array,
    rhs: jax.Array,
    window_strides,
    padding,
    lhs_dilation=None,
    rhs_dilation=None,
    dimension_numbers=None,
    feature_group_count: int = 1,
    batch_group_count: int = 1,
    precision=None,
    preferred_element_type=None,
) -> jax.Array:
    """`lax.conv_general_dilated`, with quick depthwise, 1x1 and widely dilated kernels on CPU.

    The quick paths take lhs [B, H, W, C] and rhs [kh, kw, C / groups, D] (NHWC, HWIO); any other
    layout goes to the library. They accumulate in float32 also for bfloat16 inputs.
    """
    library = partial(
        lax.conv_general_dilated,
        window_strides=window_strides,
        padding=padding,
        lhs_dilation=lhs_dilation,
        rhs_dilation=rhs_dilation,
        dimension_numbers=dimension_numbers,
        feature_group_count=feature_group_count,
        batch_group_count=batch_group_count,
        precision=precision,
        preferred_element_type=preferred_element_type,
    )
    plain = (
        lhs.ndim == 4
        and lax.conv_dimension_numbers(lhs.shape, rhs.shape, dimension_numbers) == CHANNELS_LAST
        and set(lhs_dilation or (1,)) == {1}
        and batch_group_count == 1
        and preferred_element_type is None
        and jnp.issubdtype(lhs.dtype, jnp.floating)
    )
    if not plain:
        return library(lhs, rhs)
    strides = tuple(window_strides)
    dilation = tuple(rhs_dilation or (1, 1))
    kernel = rhs.shape[:2]
    if isinstance(padding, str):
        reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
        padding = lax.padtype_to_pads(lhs.shape[1:3], reach, strides, padding)
    padding = tuple((int(low), int(high)) for low, high in padding)
    if min(min(pair) for pair in padding) < 0:
        return library(lhs, rhs)
    if feature_group_count == lhs.shape[3] == rhs.shape[3] > 1:
        quick = partial(_depthwise, strides=strides, padding=padding, dilation=dilation)
    elif feature_group_count == 1 and kernel == (1, 1) and padding == ((0, 0), (0, 0)):
        quick = partial(_pointwise, strides=strides, precision=precision)
    elif feature_group_count == 1 and strides == (1, 1) and min(dilation) > 1:
        axes = list(map(_axis, lhs.shape[1:3], kernel, padding, dilation))
        if min(outputs for outputs, _ in axes) < 1 or _share_inside(axes) > INSIDE:
            return library(lhs, rhs)
        quick = partial(_dilated, axes=axes, precision=precision)
    else:
        return library(lhs, rhs)
    return lax.platform_dependent(lhs, rhs, cpu=quick, default=library)


def convolve_gated(
    lhs: jax.Array, rhs: jax.Array, window_strides, padding, *, gate: jax.Array, **options
) -> jax.Array:
    """1x1 convolution of lhs [B, H, W, C] whose channels are multiplied by gate [B, C] first.

    The factors go into the weights, a kernel for each input, so the multiplied map is never made.
    In bfloat16 the result is bfloat16, and so is what the backward pass multiplies; in a product
    sums are float32 on every platform.
    The rest is as in `conv_general_dilated`; strides are taken, padding and other options are not.
    """
    x = lhs[:, :: window_strides[0], :: window_strides[1]]
    kernels = (gate[:, :, None] * rhs[0, 0].astype(jnp.float32)).astype(x.dtype)
    y = lax.dot_general(
        x.reshape(x.shape[0], -1, x.shape[3]),
        kernels,
        (((2,), (1,)), ((0,), (0,))),
        precision=options.get("precision"),
    )
    return y.reshape(*x.shape[:3], -1)


def _pointwise(x, kernel, strides, precision):
    """[B, H, W, C], [1, 1, C, D] -> [B, ceil(H / s), ceil(W / s), D]."""
    x = x[:, :: strides[0], :: strides[1]]
    y = lax.dot_general(
        x,
        kernel[0, 0],
        (((3,), (0,)), ((), ())),
        precision=precision,
        preferred_element_type=jnp.float32,
    )
    return y.astype(x.dtype)


def _dilated(x, kernel, axes, precision):
    """[B, H, W, C], [kh, kw, C, D] -> [B, H', W', D]: sum of the taps where they meet the image."""
    (height, rows), (width, columns) = axes
    total = jnp.zeros((x.shape[0], height, width, kernel.shape[3]), jnp.float32)
    for i, (y, top, bottom) in enumerate(rows):
        for j, (z, left, right) in enumerate(columns):
            if top < bottom and left < right:
                product = lax.dot_general(
                    x[:, top + y : bottom + y, left + z : right + z],
                    kernel[i, j],
                    (((3,), (0,)), ((), ())),
                    precision=precision,
                    preferred_element_type=jnp.float32,
                )
                margins = (top, height - bottom), (left, width - right)
                total += jnp.pad(product, ((0, 0), *margins, (0, 0)))
    return total.astype(x.dtype)


def _axis(length, taps, pads, dilation):
    """Outputs along an axis, and per tap its offset and the outputs [start, stop) it has inside."""
    outputs = length + sum(pads) - (taps - 1) * dilation
    offsets = [tap * dilation - pads[0] for tap in range(taps)]
    return outputs, [(o, max(0, -o), min(outputs, length - o)) for o in offsets]


def _share_inside(axes):
    """Of all pairs of an output and a tap, the share that meets a pixel of the image."""
    inside = [sum(max(0, stop - start) for _, start, stop in taps) for _, taps in axes]
    return math.prod(n / (len(taps) * m) for n, (m, taps) in zip(inside, axes, strict=True))


def _depthwise(x, kernel, strides, padding, dilation):
    """[B, H, W, C], [kh, kw, 1, C] -> [B, H', W', C]."""
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    return _tap_sum(x, kernel[:, :, 0], strides, dilation)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _tap_sum(x, kernel, strides, dilation):
    """Depthwise convolution without padding: [B, H, W, C], [kh, kw, C] -> [B, H', W', C]."""
    height, width = _output_size(x, kernel, strides, dilation)
    total = 0.0
    for i in range(kernel.shape[0]):
        for j in range(kernel.shape[1]):
            y, z = i * dilation[0], j * dilation[1]
            tap = lax.slice(
                x,
                (0, y, z, 0),
                (
                    x.shape[0],
                    y + (height - 1) * strides[0] + 1,
                    z + (width - 1) * strides[1] + 1,
                    x.shape[3],
                ),
                (1, *strides, 1),
            )
            total += tap.astype(jnp.float32) * kernel[i, j].astype(jnp.float32)
    return total.astype(x.dtype)


def _tap_sum_forward(x, kernel, strides, dilation):
    return _tap_sum(x, kernel, strides, dilation), (x, kernel)


def _tap_sum_backward(strides, dilation, saved, g):
    x, kernel = saved
    return (
        _input_gradient(g, kernel, strides, dilation, x.shape).astype(x.dtype),
        _kernel_gradient(g, x, kernel.shape, strides, dilation).astype(kernel.dtype),
    )


_tap_sum.defvjp(_tap_sum_forward, _tap_sum_backward)


def _input_gradient(g, kernel, strides, dilation, shape):
    """Tap sum of the cotangent, spread by the strides, with the flipped kernel."""
    config = [(0, 0, 0)]
    for axis in (0, 1):
        reach = (kernel.shape[axis] - 1) * dilation[axis]
        spread = (g.shape[axis + 1] - 1) * strides[axis] + 1
        config.append((reach, shape[axis + 1] - spread, strides[axis] - 1))
    g = lax.pad(g, jnp.zeros((), g.dtype), (*config, (0, 0, 0)))
    return _tap_sum(g, kernel[::-1, ::-1], (1, 1), dilation)


def _kernel_gradient(g, x, shape, strides, dilation):
    """[kh, kw, C]: scan over output rows, all taps of a row while it is in the cache."""
    kh, kw, _ = shape
    width = (g.shape[2] - 1) * strides[1] + 1

    def add_row(total, row):
        # Rows of x that meet output row `row`: [B, kh, W, C]
        rows = lax.dynamic_slice_in_dim(x, row * strides[0], (kh - 1) * dilation[0] + 1, axis=1)
        rows = rows[:, :: dilation[0]].astype(jnp.float32)
        g_row = lax.dynamic_slice_in_dim(g, row, 1, axis=1).astype(jnp.float32)
        taps = [
            jnp.sum(rows[:, :, z : z + width : strides[1]] * g_row, axis=(0, 2))
            for z in range(0, kw * dilation[1], dilation[1])
        ]
        return total + jnp.stack(taps, axis=1), None

    return lax.scan(add_row, jnp.zeros(shape, jnp.float32), jnp.arange(g.shape[1]))[0]


def _output_size(x, kernel, strides, dilation):
    """Height and width of the output of a convolution without padding."""
    return tuple(
        (x.shape[a + 1] - (kernel.shape[a] - 1) * dilation[a] - 1) // strides[a] + 1 for a in (0, 1)
    )
