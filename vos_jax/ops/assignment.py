"""Which prediction stands for which object: the cheapest assignment, inside of a compiled program.

RIS, RSIS and RVOS pair predicted masks with annotated ones by the Hungarian algorithm (Kuhn, 1955);
optax has one that runs under jit. Nothing is differentiated through it: the choice is piecewise
constant, so a loss takes its gradient from the chosen entries alone.
"""

import jax
import jax.numpy as jnp
import optax

IMPOSSIBLE = 1e6  # stands for entries that are no number; any cost of ours is far below


def assign(costs: jax.Array) -> jax.Array:
    """The column of each row in the assignment of least total cost.

    Args:
        costs: float [..., R, C], of any leading axes. NaN and infinity count as very expensive.

    Returns:
        int32 [..., R], each column at most once. Where R > C, rows that are left without a column
        get C.
    """
    rows, columns = costs.shape[-2:]
    costs = jax.lax.stop_gradient(costs.astype(jnp.float32))
    costs = jnp.nan_to_num(costs, nan=IMPOSSIBLE, posinf=IMPOSSIBLE, neginf=IMPOSSIBLE)

    def of_one(costs):
        chosen, column = optax.assignment.hungarian_algorithm(costs)
        return jnp.full(rows, columns, jnp.int32).at[chosen].set(column.astype(jnp.int32))

    found = jax.vmap(of_one)(costs.reshape(-1, rows, columns))
    return found.reshape(*costs.shape[:-2], rows)


def jaccard_distances(first: jax.Array, second: jax.Array) -> jax.Array:
    """1 - J of every pair of masks: bool [..., M, H, W], [..., K, H, W] -> float32 [..., M, K].

    Two empty masks are alike: 0.
    """
    both = intersections(first, second)
    sizes = [mask.sum(axis=(-2, -1)).astype(jnp.float32) for mask in (first, second)]
    either = sizes[0][..., :, None] + sizes[1][..., None, :] - both
    return jnp.where(either > 0, 1 - both / jnp.maximum(either, 1), 0.0)


def intersections(first: jax.Array, second: jax.Array) -> jax.Array:
    """Sums over the pixels of the product of every pair of maps, float32 [..., M, K]."""
    first, second = (x.astype(jnp.float32).reshape(*x.shape[:-2], -1) for x in (first, second))
    return jnp.einsum("...mp,...kp->...mk", first, second, precision=jax.lax.Precision.HIGHEST)
