"""Instance masks carried from one frame to another by a deformable convolution (MaskProp).

Bertasius and Torresani, CVPR 2020, section 3.3. Each instance has features f_i = f M_i of its
frame; one field of offsets, shared by all, takes them to the other frame, g_i = DCN(f_i); a 1x1
predictor w makes one logit a pixel of g_i + f', f' being the other frame's features.

Nothing of that is non-linear and only M_i differs between instances, so the convolution need not be
run once for each. With the scalars s_k = f W_k w of every cell and tap (the *collapsed* form)

    logit_i(p) = sum over taps k, corners c of  weight_kc(p) M_i(c) s_k(c)  + w (bias + f') + b

and an instance adds 36 products a pixel, not a convolution. Where g_i itself is wanted, f W_k is
computed once and contracted with the masks, a row of pixels at a time (the *contracted* form); a
TPU, which reads rows well and scalars badly, takes it for the logits, too. No array holds the
channels of all instances and taps.

The published probabilities are a softmax over the instances times an attention map. There, what is
the same for all instances cancels: w f' and the biases do nothing, and one instance alone has the
attention as its mask. A background with logit 0 mends both.

Glossary: N instances, H W the grid, C and D channels, K taps.
"""

import jax
import jax.numpy as jnp
from jax import lax

from vos_jax.ops.deform_conv import corners, tap_origins

SOFTMAX_OVER = ("background", "instances", "none")


def propagate(
    features: jax.Array,
    masks: jax.Array,
    offsets: jax.Array,
    kernel: jax.Array,
    bias: jax.Array,
    w: jax.Array,
    b: jax.Array,
    other: jax.Array | None = None,
) -> jax.Array:
    """Logits of every instance in the other frame.

    Args:
        features: [H, W, C] of the frame that the masks are of.
        masks: [N, H, W] in 0..1.
        offsets: [H, W, 2 K] as in `deform_conv`: (dy, dx) of each tap, where a pixel of the other
            frame reads in this one.
        kernel: [k, k, C, D], k odd; the grid stays.
        bias: [D], of the convolution.
        w: [D] and b: [], of the predictor.
        other: [H, W, D], features of the other frame; None leaves w f' out.

    Returns:
        float32 [N, H, W].
    """
    arrays = [
        jnp.asarray(x, jnp.float32) for x in (features, masks, offsets, kernel, bias, w.reshape(-1))
    ]
    logits = lax.platform_dependent(*arrays, tpu=_contracted, default=_collapsed)
    logits += jnp.reshape(b, ())
    if other is not None:
        logits += jnp.einsum("hwd,d->hw", other, arrays[-1], precision=lax.Precision.HIGHEST)
    return logits


def propagate_features(
    features: jax.Array,
    masks: jax.Array,
    offsets: jax.Array,
    kernel: jax.Array,
    bias: jax.Array,
) -> jax.Array:
    """g of every instance, float32 [N, H, W, D]: what `propagate`'s predictor reads, without f'."""
    height, width, _ = features.shape
    index, weight = _reads(offsets, kernel.shape[0])
    kernel = kernel.reshape(-1, *kernel.shape[2:])
    taps, highest = len(kernel), lax.Precision.HIGHEST
    projected = jnp.einsum("hwc,kcd->khwd", features, kernel, precision=highest)
    projected = projected.reshape(taps * height * width, -1)
    table = jnp.asarray(masks).reshape(len(masks), -1)
    tap = jnp.arange(taps)[:, None] * (height * width)

    def row(reads):
        index, weight = reads  # [W, K, 4]
        values = projected[(index + tap).reshape(width, -1)]  # [W, 4 K, D]
        shares = table[:, index.reshape(width, -1)] * weight.reshape(width, -1)  # [N, W, 4 K]
        return jnp.einsum("nwj,wjd->nwd", shares, values, precision=highest)

    return jnp.moveaxis(lax.map(row, (index, weight)), 0, 1) + bias


def instance_probabilities(
    logits: jax.Array, attention: jax.Array, valid: jax.Array, softmax_over: str = "background"
) -> jax.Array:
    """Probabilities [N, H, W] of logits [N, H, W], times attention [H, W] in 0..1.

    Args:
        valid: bool [N]; others are 0 and change nothing.
        softmax_over: "instances" (published), "background" (instances and a logit of 0), or "none"
            (each instance by itself, a sigmoid).
    """
    if softmax_over not in SOFTMAX_OVER:
        raise ValueError(f"softmax_over: expected one of {SOFTMAX_OVER}, found {softmax_over!r}")
    valid = valid[:, None, None]
    if softmax_over == "none":
        return jax.nn.sigmoid(logits) * valid * attention
    shared = jnp.where(valid, logits, -jnp.inf)
    if softmax_over == "background":
        shared = jnp.concatenate([jnp.zeros_like(logits[:1]), shared])
        return jax.nn.softmax(shared, axis=0)[1:] * attention
    shared = jnp.where(valid.any(), shared, 0.0)  # without an instance: no 0 / 0
    return jax.nn.softmax(shared, axis=0) * valid * attention


def _collapsed(features, masks, offsets, kernel, bias, w):
    """Logits without w f' and b, by one scalar for each cell and tap."""
    highest = lax.Precision.HIGHEST
    index, weight = _reads(offsets, kernel.shape[0])
    kernel = kernel.reshape(-1, *kernel.shape[2:])
    of_tap = jnp.einsum("kcd,d->kc", kernel, w, precision=highest)
    scalars = jnp.einsum("hwc,kc->khw", features, of_tap, precision=highest).reshape(-1)
    tap = jnp.arange(len(kernel))[:, None] * index.shape[0] * index.shape[1]
    shares = weight * scalars[index + tap]  # [H, W, K, 4]
    table = masks.reshape(len(masks), -1).T  # of all instances a row
    logits = jnp.einsum("hwkcn,hwkc->nhw", table[index], shares, precision=highest)
    return logits + jnp.dot(w, bias, precision=highest)


def _contracted(features, masks, offsets, kernel, bias, w):
    """The same by way of g."""
    found = propagate_features(features, masks, offsets, kernel, bias)
    return jnp.einsum("nhwd,d->nhw", found, w, precision=lax.Precision.HIGHEST)


def _reads(offsets, side):
    """The corners that each pixel reads for each tap: cells int32 and weights [H, W, K, 4]."""
    size = offsets.shape[:2]
    origin = jnp.moveaxis(tap_origins(size, (side, side), 1, side // 2, 1)[..., 0, :], 0, 2)
    found = corners(origin + offsets.reshape(*size, side * side, 2), size)
    return tuple(jnp.stack(x, axis=-1) for x in zip(*found, strict=True))
