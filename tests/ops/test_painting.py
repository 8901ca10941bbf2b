"""Painting of soft maps over each other, against painting pixel by pixel."""

import jax.numpy as jnp
import numpy as np
import pytest

from vos_jax.ops.painting import painted_labels, ranks, visible_probabilities


@pytest.fixture
def maps():
    return np.random.default_rng(0).random((2, 4, 6, 7)).astype(np.float32)


COSTS = np.float32([[0.3, 0.1, 0.9, 0.5], [0.2, 0.7, 0.2, 0.0]])


def painted(maps, cost):
    """The worst first, so that the best one lies on top; of equal ones the first."""
    labels = np.zeros(maps.shape[1:], int)
    for k in reversed(np.argsort(cost, kind="stable")):
        labels[maps[k] > 0.5] = k + 1
    return labels


def test_ranks_count_from_the_top_and_keep_the_order_of_equal_ones():
    assert ranks(jnp.asarray(COSTS)).tolist() == [[1, 0, 3, 2], [1, 3, 2, 0]]


def test_labels_are_those_of_painting_one_after_the_other(maps):
    found = painted_labels(jnp.asarray(maps), jnp.asarray(COSTS))
    expected = [painted(*video) for video in zip(maps, COSTS, strict=True)]
    np.testing.assert_array_equal(found, expected)


def test_the_most_probable_label_is_the_painted_one(maps):
    probabilities = visible_probabilities(jnp.asarray(maps), jnp.asarray(COSTS))
    found = painted_labels(jnp.asarray(maps), jnp.asarray(COSTS))
    np.testing.assert_array_equal(probabilities.argmax(axis=1), found)
    assert 0 <= probabilities.min() and probabilities.max() <= 1


def test_an_object_on_top_is_as_probable_as_its_map_and_one_alone_beside_it(maps):
    probabilities = visible_probabilities(jnp.asarray(maps), jnp.asarray(COSTS))
    np.testing.assert_array_equal(probabilities[0, 2], maps[0, 1])
    alone = visible_probabilities(jnp.asarray(maps[:, :1]), jnp.asarray(COSTS[:, :1]))
    np.testing.assert_array_equal(alone[:, 1], maps[:, 0])
    np.testing.assert_array_equal(alone[:, 0], 1 - maps[:, 0])


def test_objects_without_a_map_change_nothing(maps):
    padded = np.pad(maps, ((0, 0), (0, 2), (0, 0), (0, 0)))
    costs = np.pad(COSTS, ((0, 0), (0, 2)))  # what is not there may lie on top
    found = visible_probabilities(jnp.asarray(padded), jnp.asarray(costs))
    expected = visible_probabilities(jnp.asarray(maps), jnp.asarray(COSTS))
    np.testing.assert_array_equal(found[:, :5], expected)
    assert np.all(found[:, 5:] == 0)
