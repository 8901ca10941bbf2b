"""The Hungarian assignment against scipy's, and distances of masks against counting."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from tests.fixtures import load_npz
from vos_jax.ops.assignment import assign, jaccard_distances

# so many matrices of each shape and kind, 10 000 in all
SHAPES = {(10, 10): 800, (3, 10): 600, (10, 3): 500, (20, 20): 300, (1, 7): 300}
KINDS = ("distinct", "ties", "padded", "integers")


def drawn(rng, kind, count, shape):
    costs = rng.random((count, *shape)).astype(np.float32)
    if kind == "ties":
        costs = np.floor(costs * 4) / 4
    if kind == "integers":
        costs = np.floor(costs * 1000)
    if kind == "padded":  # as the losses of RVOS have it
        costs[:, shape[0] // 2 + 1 :] = 10
        costs[:, :, shape[1] // 2 + 1 :] = 10
    return costs


@pytest.mark.parametrize("shape", SHAPES)
def test_the_total_cost_is_the_least_for_every_matrix(shape):
    rng, run = np.random.default_rng(0), jax.jit(assign)
    for kind in KINDS:
        costs = drawn(rng, kind, SHAPES[shape], shape)
        found = np.asarray(run(costs))
        padded = np.pad(costs, ((0, 0), (0, 0), (0, 1)))  # rows without a column cost nothing
        totals = np.take_along_axis(padded, found[..., None], axis=2).sum(axis=(1, 2))
        for columns, total, matrix in zip(found, totals, costs, strict=True):
            given = columns[columns < shape[1]]
            assert len(given) == min(shape) == len(set(given))
            rows, expected = linear_sum_assignment(matrix)
            np.testing.assert_allclose(total, matrix[rows, expected].sum(), rtol=1e-6)
            if kind == "distinct":  # then it is the only one
                assert columns[rows].tolist() == expected.tolist()


def test_any_leading_axes_and_costs_that_are_no_numbers():
    costs = np.random.default_rng(1).random((2, 3, 4, 4)).astype(np.float32)
    found = assign(costs)
    np.testing.assert_array_equal(found[1, 2], assign(costs[1, 2]))
    costs[0, 0, 0] = np.nan
    costs[0, 1, :, 2] = np.inf
    assert np.sort(assign(costs)[0], axis=-1).tolist() == [[0, 1, 2, 3]] * 3


def test_the_gradient_goes_to_the_chosen_entries_alone():
    costs = jnp.asarray(np.random.default_rng(2).random((4, 5)), jnp.float32)

    def total(costs):
        return jnp.take_along_axis(costs, assign(costs)[:, None], axis=1).sum()

    gradient = jax.grad(total)(costs)
    assert (gradient.sum(axis=1) == 1).all() and ((gradient == 0) | (gradient == 1)).all()
    np.testing.assert_array_equal(gradient.argmax(axis=1), assign(costs))


def test_jaccard_distances_count_pixels():
    rng = np.random.default_rng(3)
    first, second = rng.random((2, 3, 5, 6)) < 0.4, rng.random((2, 4, 5, 6)) < 0.6
    first[0, 1] = second[0, 2] = False
    found = jaccard_distances(first, second)
    for b, m, k in np.ndindex(found.shape):
        one, other = first[b, m], second[b, k]
        expected = 1 - (one & other).sum() / (one | other).sum() if (one | other).any() else 0
        np.testing.assert_allclose(found[b, m, k], expected, atol=1e-6)


def test_the_assignment_equals_the_one_that_the_release_trains_with():
    golden = load_npz("rvos", "ops")
    valid = golden["match_sw"] > 0
    pairs = valid[:, :, None] & valid[:, None]
    masked = np.where(pairs, golden["match_scores"], 10)
    np.testing.assert_allclose(masked, golden["match_scores_masked"], atol=1e-6)
    truths = np.asarray(assign(masked.swapaxes(1, 2)))  # of each prediction
    reordered = np.take_along_axis(golden["match_y"], truths[..., None], axis=1)
    expected = golden["match_y_perm"]
    np.testing.assert_array_equal(reordered[valid], expected[valid])
