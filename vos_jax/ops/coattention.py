"""Co-attention: every pixel of a frame gets a summary of what is like it in reference frames.

Lu et al., "See More, Know More: Unsupervised Video Object Segmentation with Co-Attention Siamese
Networks", CVPR 2019 (arXiv 2001.06810), section 3; released code: carrierlxk/COSNet,
deeplab/siamese_model_conf.py. With the affinity S_ij = q_i . k_j of pixel i of the frame and pixel
j of a reference, the summary of i is sum_j softmax_j(S_ij) v_j. What the mechanisms of the paper
(full, symmetric, channel-wise weights) differ in is how q and k come from the features.

Scores are not scaled, and HW x HW of them never exist together: a loop over rows of the references
keeps sums alone (ops/memory_read.py, forward and backward). `legacy=True` is what the release's
code did until January 2020, the version that its public weights were trained with: scores go
through a softmax over the pixels of the frame before that over the pixels of the references. Its
first softmax lies within a part of the loop, and its results need no shift, so one pass does.

`dense_summaries` is the definition, for tests and small inputs.

Glossary: B videos, R references, h w the grid, Q = h * w pixels, C channels of scores, D of values.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from vos_jax.ops import platforms
from vos_jax.ops.memory_read import memory_read

HIGHEST = lax.Precision.HIGHEST
CPU_PIXELS = 128  # of a reference that are looked at at a time


def summaries(
    query: jax.Array,
    keys: jax.Array,
    values: jax.Array,
    valid: jax.Array,
    *,
    joint: bool = False,
    legacy: bool = False,
    precision: str = "highest",
    kernel_bytes: int = 0,
) -> jax.Array:
    """What each pixel of a frame reads in the references.

    Args:
        query: [B, Q, C] float32 or bfloat16.
        keys: [B, R, h, w, C], values: [B, R, h, w, D], same dtype.
        valid: [B, R] bool, references that count.
        joint: one softmax over the pixels of all references (the release's group co-attention)
            instead of one for each of them.
        legacy: see above.
        precision, kernel_bytes: see `platforms`; the bytes are those of a part's scores.

    Returns:
        [B, R, Q, D] float32, or [B, 1, Q, D] where joint; zeros where no reference counts.
        Differentiable in query, keys and values.
    """
    if keys.ndim != 5 or keys.shape[:4] != values.shape[:4] or query.shape[2] != keys.shape[4]:
        raise ValueError(
            "coattention: expected query [B, Q, C], keys [B, R, h, w, C] and values "
            f"[B, R, h, w, D], found {query.shape}, {keys.shape} and {values.shape}"
        )
    width = keys.shape[3]
    keys, values = (_in_parts(x, CPU_PIXELS // width) for x in (keys, values))
    settings = dict(precision=precision, kernel_bytes=kernel_bytes)
    if legacy:
        return _legacy_summaries(query, keys, values, valid, joint, **settings)
    parts = keys.shape[2]
    valid = jnp.broadcast_to(valid[..., None], (*valid.shape, parts))
    if joint:
        keys, values, valid = (
            x.reshape(len(x), 1, -1, *x.shape[3:]) for x in (keys, values, valid)
        )
    return memory_read(query, keys, values, valid, scale=1.0, **settings)


def dense_summaries(
    query: jax.Array,
    keys: jax.Array,
    values: jax.Array,
    valid: jax.Array,
    *,
    joint: bool = False,
    legacy: bool = False,
) -> jax.Array:
    """The definition of `summaries`, with the whole affinity in memory."""
    keys, values = (x.reshape(*x.shape[:2], -1, x.shape[-1]) for x in (keys, values))
    scores = jnp.einsum("bqc,brpc->brqp", query, keys, precision=HIGHEST)
    if legacy:
        scores = jax.nn.softmax(scores, axis=2)
    counts = valid[:, :, None, None]
    axes = (1, 3) if joint else 3
    weights = jnp.nan_to_num(jax.nn.softmax(scores, axis=axes, where=counts))
    found = jnp.einsum("brqp,brpd->brqd", weights, values, precision=HIGHEST)
    return found.sum(axis=1, keepdims=True) if joint else found


def gated(summary: jax.Array, weight: jax.Array, bias: jax.Array | float = 0.0) -> jax.Array:
    """A summary [..., D] times how much of it is to be let through, [..., D].

    weight: [D], of the 1x1 convolution before the sigmoid; bias: [] (the release has none).
    """
    logit = jnp.einsum("...d,d->...", summary, weight, precision=HIGHEST) + bias
    return summary * jax.nn.sigmoid(logit)[..., None]


def off_orthogonal(projection: jax.Array) -> jax.Array:
    """How far the rows of P [C, C] are from orthonormal ones: the mean of |P P' - 1|, []."""
    product = jnp.matmul(projection, projection.T, precision=HIGHEST)
    return jnp.abs(product - jnp.eye(len(projection))).mean()


def _in_parts(x: jax.Array, most: int) -> jax.Array:
    """[B, R, h, w, C] -> [B, R, parts, rows * w, C], at most `most` rows in each part."""
    rows = _divisor(x.shape[2], most)
    return x.reshape(*x.shape[:2], x.shape[2] // rows, rows * x.shape[3], x.shape[4])


def _divisor(whole: int, most: int) -> int:
    """The largest divisor of `whole` that is not above `most`; 1 where none is."""
    return max((n for n in range(1, whole + 1) if whole % n == 0 and n <= most), default=1)


def _legacy_summaries(query, keys, values, valid, joint, precision, kernel_bytes):
    """`summaries` for keys and values [B, R, parts, P, C]."""
    _, references, parts, pixels, _ = keys.shape
    each = references * pixels * query.shape[1] * 4
    plans = platforms.make_plans(
        1, lambda limit: max(limit // each, 1), kernel_bytes, precision, query.dtype
    )

    def loop(query, keys, values, valid, plan):
        size = _divisor(parts, plan.size)
        product = partial(jnp.einsum, precision=plan.precision, preferred_element_type=jnp.float32)

        @jax.checkpoint
        def part(sums, pair):
            keys, values = pair  # [B, R, G, C], [B, R, G, D]
            scores = jax.nn.softmax(product("brpc,bqc->brpq", keys, query), axis=3)
            weights = jnp.exp(scores) * valid[:, :, None, None]
            read = product("brpq,brpd->brqd", weights.astype(values.dtype), values)
            return (sums[0] + weights.sum(axis=2), sums[1] + read), None

        def groups(x):
            grouped = x.reshape(*x.shape[:2], parts // size, size * pixels, x.shape[-1])
            return jnp.moveaxis(grouped, 2, 0)

        rows = (len(query), references, query.shape[1])
        start = jnp.zeros(rows), jnp.zeros((*rows, values.shape[-1]))
        (total, read), _ = lax.scan(part, start, (groups(keys), groups(values)))
        if joint:
            total, read = (x.sum(axis=1, keepdims=True) for x in (total, read))
        return read / jnp.where(total > 0, total, 1.0)[..., None]

    return platforms.run(loop, plans, query, keys, values, valid)
