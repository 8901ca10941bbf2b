"""Space-time memory read: every query pixel attends to all pixels of all memory frames.

Equations 1 and 2 of STM (Oh et al., ICCV 2019, arXiv:1904.00607): with query keys k_Q, memory keys
k_M and memory values v_M, the read at pixel i is sum_j softmax_j(scale k_Q(i) . k_M(j)) v_M(j).

How it is computed. A loop over groups of memory frames (on CPU one frame each) keeps a running
maximum and running sums (online softmax), so that the only buffers are the scores of one group and
the result: memory does not grow with the number of frames beyond the bank itself, and groups behind
the last frame in use cost no time. The backward pass runs the same loop over recomputed scores.
`dense_memory_read` is the definition, for tests and small inputs.

With a mesh the memory frames lie in parts on the devices along one of its axes: each device reads
its own frames, and the sums, shifted by the common maximum, are added. The batch may be split along
another axis.

Deviation: the released code divides the scores by sqrt(C), which the paper's equation lacks; that
is the default, scale=1.0 is the equation. An object without any valid memory frame reads zeros.

Glossary: B videos, N objects, T memory frames, P pixels of a memory frame, G pixels of a group of
frames, Q query pixels, C and D channels of keys and values.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh, PartitionSpec

from vos_jax.ops import platforms
from vos_jax.ops.platforms import Plan

HIGHEST = lax.Precision.HIGHEST
CPU_FRAMES = 1  # of a group
_LOWEST = -1e30  # score of what takes no part; finite, so that differences are no NaN


def memory_read(
    query: jax.Array,
    keys: jax.Array,
    values: jax.Array,
    valid: jax.Array | None = None,
    *,
    scale: float | None = None,
    top_k: int = 0,
    precision: str = "highest",
    kernel_bytes: int = 0,
    mesh: Mesh | None = None,
    axis: str = "data",
) -> jax.Array:
    """What each query pixel reads for each object.

    Args:
        query: [B, Q, C] float32 or bfloat16, shared by the objects of a video.
        keys: [B, N, T, P, C], values: [B, N, T, P, D], same dtype.
        valid: [B, N, T] bool, memory frames that count for an object; None: all.
        scale: of the scores; None: C ** -0.5.
        top_k: of all memory pixels only the k best of each query pixel count (and those that tie
            with the k-th); 0: all.
        precision, kernel_bytes: see `platforms`; the bytes are those of a group's scores.
        mesh, axis: lay T in parts on the devices along this axis; T must be a multiple of its size.

    Returns:
        [B, N, Q, D] float32. Differentiable in query, keys and values.
    """
    valid, scale = _checked(query, keys, values, valid, scale)
    if mesh is not None and keys.shape[2] % mesh.shape[axis]:
        raise ValueError(
            f"memory_read: {keys.shape[2]} memory frames cannot be split over the "
            f"{mesh.shape[axis]} devices of mesh axis {axis!r}; use a multiple of it"
        )
    plans = _plan(query, keys, kernel_bytes, precision)
    return _read(query, keys, values, valid, scale, top_k, plans, mesh, axis)


def dense_memory_read(
    query: jax.Array,
    keys: jax.Array,
    values: jax.Array,
    valid: jax.Array | None = None,
    *,
    scale: float | None = None,
    top_k: int = 0,
    precision: lax.PrecisionLike = HIGHEST,
) -> jax.Array:
    """The definition of `memory_read`, with the whole affinity matrix in memory."""
    weights = affinity(query, keys, valid, scale=scale, top_k=top_k, precision=precision)
    values = values.reshape(*values.shape[:2], -1, values.shape[-1]).astype(jnp.float32)
    return jnp.einsum("bnpq,bnpd->bnqd", weights, values, precision=precision)


def read_products(query: jax.Array, keys: jax.Array, values: jax.Array) -> jax.Array:
    """The two matrix products of a read alone, frame by frame: what no read can cost less than.

    For benchmarks; arguments as in `memory_read`, the result [B, N, Q, D] is no read.
    """

    def add_frame(t, total):
        product = partial(jnp.einsum, precision=HIGHEST)
        scores = product("bnpc,bqc->bnpq", keys[:, :, t], query)
        return total + product("bnpq,bnpd->bnqd", scores, values[:, :, t])

    start = jnp.zeros((*keys.shape[:2], query.shape[1], values.shape[-1]))
    return lax.fori_loop(0, keys.shape[2], add_frame, start)


def affinity(
    query: jax.Array,
    keys: jax.Array,
    valid: jax.Array | None = None,
    *,
    scale: float | None = None,
    top_k: int = 0,
    precision: lax.PrecisionLike = HIGHEST,
) -> jax.Array:
    """Weights [B, N, T * P, Q] float32 of the memory pixels; they sum to 1 over the third axis."""
    valid, scale = _checked(query, keys, keys, valid, scale)
    batch, objects, frames, pixels, channels = keys.shape
    score = _scores(query, keys.reshape(batch, objects, -1, channels), scale, precision)
    counts = jnp.repeat(valid, pixels, axis=2)[..., None]
    if top_k:
        best = lax.top_k(
            jnp.swapaxes(jnp.where(counts, score, _LOWEST), 2, 3), _at_most(top_k, keys)
        )
        counts &= score >= lax.stop_gradient(best[0][:, :, None, :, -1])
    score = jnp.where(counts, score, _LOWEST)
    weight = jnp.where(counts, jnp.exp(score - lax.stop_gradient(score.max(2, keepdims=True))), 0.0)
    total = weight.sum(axis=2, keepdims=True)
    return weight / jnp.where(total > 0, total, 1.0)


def _checked(query, keys, values, valid, scale):
    """`valid` and `scale` with their defaults; ValueError where shapes do not fit."""
    if (
        query.ndim != 3
        or keys.ndim != 5
        or keys.shape[:4] != values.shape[:4]
        or (query.shape[0], query.shape[2]) != (keys.shape[0], keys.shape[4])
    ):
        raise ValueError(
            "memory_read: expected query [B, Q, C], keys [B, N, T, P, C] and values "
            f"[B, N, T, P, D], found {query.shape}, {keys.shape} and {values.shape}"
        )
    if valid is None:
        valid = jnp.ones(keys.shape[:3], bool)
    if valid.shape != keys.shape[:3]:
        raise ValueError(
            f"memory_read: expected valid [B, N, T] = {keys.shape[:3]}, found {valid.shape}"
        )
    return valid, keys.shape[-1] ** -0.5 if scale is None else scale


def _at_most(top_k, keys):
    return min(top_k, keys.shape[2] * keys.shape[3])


def _scores(query, keys, scale, precision):
    """[B, Q, C], [B, N, P, C] -> [B, N, P, Q] float32."""
    product = jnp.einsum(
        "bnpc,bqc->bnpq", keys, query, precision=precision, preferred_element_type=jnp.float32
    )
    return product * scale


def _plan(query, keys, kernel_bytes, precision):
    """How many memory frames are one group."""
    _, objects, _, pixels, _ = keys.shape
    each = objects * pixels * query.shape[1] * 4
    return platforms.make_plans(
        CPU_FRAMES, lambda limit: max(limit // each, 1), kernel_bytes, precision, query.dtype
    )


@partial(jax.custom_vjp, nondiff_argnums=(4, 5, 6, 7, 8))
def _read(query, keys, values, valid, scale, top_k, plans, mesh, axis):
    return _forward(query, keys, values, valid, scale, top_k, plans, mesh, axis)[0]


def _forward(query, keys, values, valid, scale, top_k, plans, mesh, axis):
    arrays = query, keys, values, valid
    copied, split = PartitionSpec(), PartitionSpec(None, None, axis)
    loop = _over_devices(
        partial(_forward_loop, scale=scale, top_k=_at_most(top_k, keys)),
        mesh,
        axis,
        (copied, split, split, split),
        (copied,) * 3,
    )
    read, log_total, threshold = platforms.run(loop, plans, *arrays)
    return read, (*arrays, read, log_total, threshold)


def _backward(scale, top_k, plans, mesh, axis, saved, cotangent):
    query, keys, values, valid, read, log_total, threshold = saved
    # Of the softmax's Jacobian: what all weights of a query have in common, [B, N, Q].
    shared = jnp.sum(cotangent * read, axis=-1)
    arrays = query, keys, values, valid, cotangent, shared, log_total, threshold
    copied, split = PartitionSpec(), PartitionSpec(None, None, axis)
    loop = _over_devices(
        partial(_backward_loop, scale=scale),
        mesh,
        axis,
        (copied, split, split, split) + (copied,) * 4,
        (copied, split, split),
    )
    return *platforms.run(loop, plans, *arrays), None


_read.defvjp(_forward, _backward)


def _over_devices(loop, mesh, axis, in_specs, out_specs):
    """loop(*arrays, plan, axis) on each device's part along `axis`; without a mesh on one device.

    Along other axes arrays stay as they lie.
    """
    if mesh is None:
        return partial(loop, axis=None)

    def run(*arrays, plan):
        f = partial(loop, plan=plan, axis=axis)
        specs = dict(in_specs=in_specs, out_specs=out_specs)
        return jax.shard_map(f, mesh=mesh, axis_names={axis}, check_vma=False, **specs)(*arrays)

    return run


class _Groups:
    """Memory frames in groups of one size; the last group begins earlier where it would be short.

    number: of groups up to the last frame that counts for any object, traced unless there is one.
    """

    def __init__(self, valid: jax.Array, most: int):
        self.valid = valid
        self.number, self.size = platforms.even_parts(valid.shape[2], most)
        if self.number > 1:
            used = valid.any(axis=(0, 1))
            last = jnp.max(jnp.where(used, jnp.arange(1, len(used) + 1), 0))
            self.number = -(-last // self.size)

    def first(self, i):
        """The first frame of group i."""
        return jnp.minimum(i * self.size, self.valid.shape[2] - self.size)

    def frames(self, x, i):
        """[B, N, T, ...] -> [B, N, frames, ...]."""
        return lax.dynamic_slice_in_dim(x, self.first(i), self.size, axis=2)

    def pixels(self, x, i):
        """[B, N, T, P, C] -> [B, N, G, C]."""
        found = self.frames(x, i)
        return found.reshape(*found.shape[:2], -1, found.shape[-1])

    def counts(self, i, pixels):
        """Pixels that count for an object, [B, N, G, 1]; those of an earlier group do not again."""
        fresh = self.first(i) + jnp.arange(self.size) >= i * self.size
        return jnp.repeat(self.frames(self.valid, i) & fresh, pixels, axis=2)[..., None]

    def add(self, total, part, i):
        """total [B, N, T, P, C] with part [B, N, G, C] added to the group's frames."""
        there = self.frames(total, i)
        there += part.reshape(there.shape).astype(total.dtype)
        return lax.dynamic_update_slice_in_dim(total, there, self.first(i), axis=2)


def _weights(score, counts, shift, threshold):
    """exp(score - shift) of what counts, else 0: [B, N, G, Q]."""
    counts &= score >= threshold[:, :, None]
    return jnp.where(counts, jnp.exp(score - shift[:, :, None]), 0.0)


def _forward_loop(query, keys, values, valid, scale, top_k, plan: Plan, axis):
    """Read [B, N, Q, D], and for the backward pass two [B, N, Q]: log of the sum of exponentials,
    and the smallest score that counts."""
    rows = (*keys.shape[:2], query.shape[1])
    groups = _Groups(valid, plan.size)

    def scores(i):
        counts = groups.counts(i, keys.shape[3])
        score = _scores(query, groups.pixels(keys, i), scale, plan.precision)
        return jnp.where(counts, score, _LOWEST), counts

    threshold = _threshold(scores, rows, groups.number, top_k, axis)

    def add_group(i, carry):
        shift, total, read = carry
        score, counts = scores(i)
        higher = jnp.maximum(shift, score.max(axis=2))
        weight = _weights(score, counts, higher, threshold)
        fade = jnp.exp(shift - higher)
        seen = jnp.einsum(
            "bnpq,bnpd->bnqd",
            weight.astype(values.dtype),
            groups.pixels(values, i),
            precision=plan.precision,
            preferred_element_type=jnp.float32,
        )
        return higher, total * fade + weight.sum(axis=2), read * fade[..., None] + seen

    start = jnp.full(rows, _LOWEST), jnp.zeros(rows), jnp.zeros((*rows, values.shape[-1]))
    shift, total, read = lax.fori_loop(0, groups.number, add_group, start)
    if axis is not None:
        highest = lax.pmax(shift, axis)
        fade = jnp.exp(shift - highest)
        shift, total = highest, lax.psum(total * fade, axis)
        read = lax.psum(read * fade[..., None], axis)
    total = jnp.where(total > 0, total, 1.0)  # nothing counts: zeros
    return read / total[..., None], shift + jnp.log(total), threshold


def _threshold(scores, rows, groups, top_k, axis):
    """The top_k-th largest score of each query pixel, [B, N, Q]; below all scores for top_k = 0."""
    if not top_k:
        return jnp.full(rows, _LOWEST)

    def add_group(i, best):
        candidates = jnp.concatenate([best, jnp.swapaxes(scores(i)[0], 2, 3)], axis=-1)
        return lax.top_k(candidates, top_k)[0]

    best = lax.fori_loop(0, groups, add_group, jnp.full((*rows, top_k), _LOWEST))
    if axis is not None:
        best = lax.top_k(lax.all_gather(best, axis, axis=3, tiled=True), top_k)[0]
    return best[..., -1]


def _backward_loop(
    query, keys, values, valid, cotangent, shared, log_total, threshold, scale, plan: Plan, axis
):
    """Gradients of query, keys and values."""
    product = partial(jnp.einsum, precision=plan.precision, preferred_element_type=jnp.float32)
    groups = _Groups(valid, plan.size)

    def add_group(i, gradients):
        dquery, dkeys, dvalues = gradients
        key, value = groups.pixels(keys, i), groups.pixels(values, i)
        score = _scores(query, key, scale, plan.precision)
        weight = _weights(score, groups.counts(i, keys.shape[3]), log_total, threshold)
        dvalue = product("bnpq,bnqd->bnpd", weight, cotangent)
        dweight = product("bnpd,bnqd->bnpq", value, cotangent)
        dscore = weight * (dweight - shared[:, :, None]) * scale
        dquery += product("bnpq,bnpc->bqc", dscore, key)
        dkey = product("bnpq,bqc->bnpc", dscore, query)
        return dquery, groups.add(dkeys, dkey, i), groups.add(dvalues, dvalue, i)

    start = jnp.zeros(query.shape, jnp.float32), jnp.zeros_like(keys), jnp.zeros_like(values)
    dquery, dkeys, dvalues = lax.fori_loop(0, groups.number, add_group, start)
    if axis is not None:
        dquery = lax.psum(dquery, axis)
    return dquery.astype(query.dtype), dkeys, dvalues
