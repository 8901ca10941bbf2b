"""What global and local matching share: products, winners and their gradient.

Glossary as in `matching`: B batch, Q queries, P reference pixels, L labels, k neighbours,
C channels, S pixels and q queries of one product.
"""

import jax
import jax.numpy as jnp
from jax import lax

ABSENT = 1e20  # distance to a label that has no pixel to match with


def rounded(x, dtype):
    """float32 values as arithmetic in `dtype` leaves them; only that in float16 rounds each step.

    So do the released codes in half precision. reduce_precision, because XLA may leave out a cast
    to float16 and back.
    """
    return lax.reduce_precision(x, 5, 10) if dtype == jnp.float16 else x


def squared_norm(x):
    """Over the last axis, float32; of float16 the squares and the sum are rounded."""
    squares = rounded(jnp.square(x.astype(jnp.float32)), x.dtype)
    return rounded(jnp.sum(squares, axis=-1), x.dtype)


def label_sizes(labels, num_labels):
    """Pixels of each label: [B, P] -> [B, L]."""
    return jnp.sum(labels[:, None] == jnp.arange(num_labels)[:, None], axis=2, dtype=jnp.int32)


def scores(pixels, offset, query, precision, winners):
    """Product of pixels [B, S, C] and query [B, q, C] plus an offset: float32 [B, S, q].

    Where winners are wanted the product is kept from fusing with the sum, so that every reader of
    the sum sees the same bits: the winner is found by comparing with the minimum. It has the pixels
    on the major axis, where a minimum vectorises.
    """
    product = lax.dot_general(
        pixels,
        query,
        (((2,), (2,)), ((0,), (0,))),
        precision=precision,
        preferred_element_type=jnp.float32,
    )
    if winners:
        product = lax.optimization_barrier(product)
    return rounded(rounded(product, pixels.dtype) + offset, pixels.dtype)


def first_equal(d, value, axis=1):
    """Lowest index along `axis` at which d equals value."""
    iota = lax.broadcasted_iota(jnp.int32, d.shape, axis)
    return jnp.min(jnp.where(d == value, iota, d.shape[axis] - 1), axis=axis, keepdims=True)


def shares(found):
    """Weight of each of the k neighbours [.., k, Q]: 1/k, and the missing ones' on the farthest."""
    k = found.shape[2]
    number = jnp.sum(found, axis=2, keepdims=True)
    rank = lax.broadcasted_iota(jnp.int32, found.shape, 2)
    return (found + jnp.where(rank == number - 1, k - number, 0)) / k


def winner_gradient(query, reference, index, cotangent):
    """Gradient of mean |x - y|^2 over the saved winners, one label and neighbour at a time.

    query [B, Q, C], reference [B, P, C], index [B, L, k, Q] (-1: none), cotangent [B, L, Q].
    """
    found = index >= 0
    weight = 2 * cotangent[:, :, None] * shares(found)
    x, y = query.astype(jnp.float32), reference.astype(jnp.float32)

    def add_winner(gradients, winner):
        dx, dy = gradients
        index, weight = winner  # [B, Q]
        pull = jax.vmap(lambda x, y, i: x - y[i])(x, y, index) * weight[..., None]
        return (dx + pull, jax.vmap(lambda dy, i, p: dy.at[i].add(-p))(dy, index, pull)), None

    def by_winner(a):  # [B, L, k, Q] -> [L * k, B, Q]
        return jnp.moveaxis(a.reshape(a.shape[0], -1, a.shape[3]), 1, 0)

    winners = by_winner(jnp.where(found, index, 0)), by_winner(jnp.where(found, weight, 0.0))
    (dx, dy), _ = lax.scan(add_winner, (jnp.zeros_like(x), jnp.zeros_like(y)), winners)
    return dx.astype(query.dtype), dy.astype(reference.dtype)
