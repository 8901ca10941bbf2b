"""Nearest-neighbour matching of embeddings, globally and in a local window.

Equations 1-3 of FEELVOS (Voigtlaender et al., CVPR 2019, arXiv:1902.09513): for every query pixel x
and label l the smallest squared distance |x - y|^2 over the reference pixels y that carry l.

How it is computed. A reference pixel carries one label, so all labels share one product x.y:
- global: the reference is sorted by label into blocks of one label each; every block is multiplied
  with a chunk of queries and reduced to a running minimum of its label. Time is that of the matrix
  product; memory is the sorted copy of the reference and one [block, chunk] buffer.
- local: a tile of queries is multiplied with the band of previous pixels that its windows touch.
  Memory is one [band, tile] buffer and the minima.
Both are exact. The gradient goes to the winner with the lowest index (reference index; in a window
the row-major offset), in the forward pass saved as an index, so the backward pass needs no more
memory than the embeddings. Evaluation without gradient does not look for the winner.

Deviation from the released code: the loss of precision in |x|^2 + |y|^2 - 2 x.y may leave a value
slightly below 0 in both, but the sum runs in another order (differences of about 1e-6 |x|^2).

Glossary: B batch, h w grid, Q = h w queries, P reference pixels, C channels, L labels,
S pixels of a block, K half window, k neighbours.
"""

import jax
import jax.numpy as jnp
from jax import lax

from vos_jax.ops.global_search import plan_products, search_global
from vos_jax.ops.local_search import plan_tiles, search_local
from vos_jax.ops.nearest import ABSENT, label_sizes


def global_matching(
    query: jax.Array,
    reference: jax.Array,
    reference_labels: jax.Array,
    num_labels: int,
    count: jax.Array | None = None,
    k: int = 1,
    precision: str = "highest",
    kernel_bytes: int = 0,
) -> jax.Array:
    """Smallest squared distance from each query pixel to the reference pixels of each label.

    Args:
        query: [B, h, w, C] float32 or bfloat16.
        reference: [B, P, C], same dtype.
        reference_labels: [B, P] int; values outside 0..num_labels-1 are ignored.
        num_labels: L, static. Labels that never occur only cost their row of the result.
        count: [] int, traced: only reference pixels 0..count-1 are looked at (a memory that fills
            up keeps one compilation). None: all P.
        k: mean of the k smallest distances; a label with fewer pixels repeats its farthest one.
        precision, kernel_bytes: see `platforms`.

    Returns:
        [B, h, w, L] float32, ABSENT where the label has no pixel. Not clamped at 0.
    """
    _check_global(query, reference, reference_labels, num_labels, k)
    batch, h, w, channels = query.shape
    if count is None:
        count = reference.shape[1]
    query = query.reshape(batch, h * w, channels)
    distances = search_global(
        query,
        reference,
        reference_labels.astype(jnp.int32),
        jnp.asarray(count, jnp.int32),
        num_labels,
        k,
        plan_products(query, reference, num_labels, k, kernel_bytes, precision),
    )
    return jnp.moveaxis(distances, 1, 2).reshape(batch, h, w, num_labels)


def local_matching(
    query: jax.Array,
    previous: jax.Array,
    previous_labels: jax.Array,
    num_labels: int,
    window: int,
    precision: str = "highest",
    kernel_bytes: int = 0,
) -> jax.Array:
    """Smallest squared distance from each query pixel to each label in a window around it.

    Args:
        query: [B, h, w, C] float32 or bfloat16.
        previous: [B, h, w, C], same dtype.
        previous_labels: [B, h, w] int; values outside 0..num_labels-1 are ignored.
        num_labels: L, static.
        window: half size K, static: offsets -K..K on both axes, those outside the image ignored.
        precision, kernel_bytes: see `platforms`.

    Returns:
        [B, h, w, L] float32, ABSENT where the label has no pixel in the window. Not clamped at 0.
    """
    if query.ndim != 4 or previous.shape != query.shape:
        raise ValueError(
            f"local_matching: query and previous must both be [B, h, w, C], found {query.shape} "
            f"and {previous.shape}; bring both frames to one grid"
        )
    if previous_labels.shape != query.shape[:3]:
        raise ValueError(
            f"local_matching: previous_labels must be [B, h, w] = {query.shape[:3]}, found "
            f"{previous_labels.shape}; resize the labels to the grid of the embeddings"
        )
    if num_labels < 1 or window < 0:
        raise ValueError(
            f"local_matching: expected num_labels >= 1 and window >= 0, found {num_labels} and "
            f"{window}"
        )
    distances = search_local(
        query,
        previous,
        previous_labels.astype(jnp.int32),
        num_labels,
        window,
        plan_tiles(query, window, kernel_bytes, precision),
    )
    return jnp.moveaxis(distances, 1, -1)


def normalise_distance(d: jax.Array, bias: jax.Array | float = 0.0) -> jax.Array:
    """1 - 2 / (1 + exp(d + bias)), the distance of FEELVOS equation 1: 0 at 0, 1 where ABSENT.

    d: any shape; bias: broadcast against it, that of CFBI's labels. Written as tanh, which neither
    overflows nor loses its gradient to NaN for large d; slightly negative d give slightly negative
    values, as in the released code.
    """
    return jnp.where(d < ABSENT / 2, jnp.tanh((d + bias) / 2), 1.0)


def sample_references(
    rng: jax.Array,
    embedding: jax.Array,
    labels: jax.Array,
    num_labels: int,
    per_label: int = 1024,
) -> tuple[jax.Array, jax.Array]:
    """At most `per_label` random pixels of each label, without replacement (FEELVOS training).

    Args:
        rng: key.
        embedding: [B, h, w, C].
        labels: [B, h, w] int; values outside 0..num_labels-1 are never drawn.
        num_labels: L, static.
        per_label: static.

    Returns:
        reference [B, L * per_label, C] and its labels [B, L * per_label] int32, -1 in the slots
        that a label with fewer pixels leaves empty. If the image has no more than `per_label`
        pixels: all of them in their order, [B, h * w, C] and [B, h * w].
    """
    batch, h, w, channels = embedding.shape
    pixels = embedding.reshape(batch, h * w, channels)
    labels = labels.reshape(batch, h * w).astype(jnp.int32)
    labels = jnp.where((labels >= 0) & (labels < num_labels), labels, -1)
    if h * w <= per_label:
        return pixels, labels
    groups = jnp.where(labels < 0, num_labels, labels)
    noise = jax.random.bits(rng, groups.shape)
    iota = lax.broadcasted_iota(jnp.int32, groups.shape, 1)
    order = lax.sort((groups, noise, iota), dimension=1, num_keys=2)[2]
    sizes = label_sizes(labels, num_labels)
    start = jnp.cumsum(sizes, axis=1) - sizes
    rank = jnp.arange(per_label)
    drawn = rank < sizes[:, :, None]
    slots = jnp.where(drawn, start[:, :, None] + rank, 0).reshape(batch, -1)
    source = jnp.take_along_axis(order, slots, axis=1)
    reference = jnp.take_along_axis(pixels, source[:, :, None], axis=1)
    slot_labels = jnp.where(drawn, jnp.arange(num_labels)[:, None], -1)
    return reference, slot_labels.reshape(batch, -1)


def _check_global(query, reference, labels, num_labels, k):
    if (
        query.ndim != 4
        or reference.ndim != 3
        or ((query.shape[0], query.shape[3]) != (reference.shape[0], reference.shape[2]))
    ):
        raise ValueError(
            "global_matching: expected query [B, h, w, C] and reference [B, P, C], found "
            f"{query.shape} and {reference.shape}; flatten the reference pixels into one axis"
        )
    if labels.shape != reference.shape[:2]:
        raise ValueError(
            f"global_matching: reference_labels must be [B, P] = {reference.shape[:2]}, found "
            f"{labels.shape}; give one label per reference pixel"
        )
    if num_labels < 1 or k < 1:
        raise ValueError(
            f"global_matching: expected num_labels >= 1 and k >= 1, found {num_labels} and {k}"
        )
