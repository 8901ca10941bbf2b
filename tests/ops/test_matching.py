from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.fixtures import load_npz
from vos_jax.ops import global_search
from vos_jax.ops.matching import (
    ABSENT,
    global_matching,
    local_matching,
    normalise_distance,
    sample_references,
)

# kernel_bytes: the CPU's own; one query or tile at a time; a few; all at once
OWN, ONE, FEW, ALL = 0, 1, 40_000, 2**30
GOLDEN = {key: jnp.asarray(value) for key, value in load_npz("feelvos", "ops").items()}


@pytest.fixture
def small_blocks(monkeypatch):
    """Several blocks of reference pixels also for the few that a test has."""
    monkeypatch.setattr(global_search, "BLOCK", 8)


def pixels(embedding):
    return embedding.reshape(1, -1, embedding.shape[-1])


def golden_global(query, reference, labels, num_labels, **options):
    return global_matching(
        GOLDEN[query][None],
        pixels(GOLDEN[reference]),
        GOLDEN[labels].reshape(1, -1),
        num_labels,
        **options,
    )[0]


def to_winners(query, reference, winners):
    """Mean squared distance of [Q, C] to its winners [L, k, Q] in [P, C]; -1 is ABSENT: [Q, L]."""
    d = jnp.sum((query - reference[np.maximum(winners, 0)]) ** 2, axis=-1)
    return jnp.where(winners[:, 0] < 0, ABSENT, jnp.mean(d, axis=1)).T


def dense_winners(query, reference, allowed, k):
    """Indices [L, k, Q] of the k nearest of the `allowed` [L, Q, P], ties by index; -1: none.

    Where there are fewer than k, the farthest is repeated.
    """
    channels = query.shape[-1]
    query, reference = (np.asarray(a).reshape(-1, 1, channels) for a in (query, reference))
    distance = np.sum((query - reference[:, 0]) ** 2, -1)
    order = np.argsort(np.where(allowed, distance, np.inf), axis=-1, kind="stable")
    number = np.broadcast_to(allowed, (len(allowed), *distance.shape)).sum(-1, keepdims=True)
    order = np.take_along_axis(order, np.clip(np.arange(k), 0, np.maximum(number - 1, 0)), -1)
    return np.moveaxis(np.where(number > 0, order, -1), -1, 1)


def dense(query, reference, allowed, k=1):
    """The definition of matching as a function of query and reference.

    Every query is compared with every reference; the winners are those of the given values and the
    gradient flows to them. query [B, h, w, C], reference [B, ..., C], allowed B x [L, Q, P].
    """
    winners = [dense_winners(*video, k) for video in zip(query, reference, allowed, strict=True)]

    def distances(query, reference):
        videos = zip(query, reference, winners, strict=True)
        channels = query.shape[-1]
        d = [to_winners(q.reshape(-1, channels), r.reshape(-1, channels), i) for q, r, i in videos]
        return jnp.stack(d).reshape(*query.shape[:3], -1)

    return distances


def dense_global(query, reference, labels, num_labels, k=1):
    own = np.asarray(labels)[:, None, None] == np.arange(num_labels)[:, None, None]
    return dense(query, reference, own, k)


def dense_local(query, previous, labels, num_labels, window):
    batch, h, w = labels.shape
    row, column = np.divmod(np.arange(h * w), w)
    near = np.abs(row[:, None] - row) <= window
    near &= np.abs(column[:, None] - column) <= window
    flat = np.asarray(labels).reshape(batch, 1, 1, h * w)
    return dense(query, previous, near & (flat == np.arange(num_labels)[:, None, None]))


def tied(*shape, seed=0):
    """Small integers: distances are exact and many are equal."""
    return jnp.asarray(np.random.default_rng(seed).integers(0, 3, shape), jnp.float32)


def random_labels(*shape, num_labels=4, seed=0):
    """Labels with void (255), -1, and the last label missing."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, num_labels - 1, shape)
    labels[rng.random(shape) < 0.1] = 255
    labels[rng.random(shape) < 0.1] = -1
    return jnp.asarray(labels, jnp.int32)


def assert_equal_with_gradients(ours, dense, query, reference, tolerance=0.0):
    """Values, and the gradients of a weighted sum of all distances that are not ABSENT."""
    value = dense(query, reference)
    weights = jnp.where(value < ABSENT, tied(*value.shape, seed=9) + 1, 0.0)
    result, pull = jax.vjp(ours, query, reference)
    np.testing.assert_allclose(ours(query, reference), value, rtol=tolerance)
    np.testing.assert_array_equal(result, ours(query, reference))
    for gradient, expected in zip(
        pull(weights), jax.vjp(dense, query, reference)[1](weights), strict=True
    ):
        np.testing.assert_allclose(gradient, expected, rtol=10 * tolerance, atol=10 * tolerance)
        assert np.any(np.asarray(gradient) != 0)


# ---- the released code ----


def test_global_distances_equal_the_released_code():
    raw = golden_global("query", "ref", "ref_labels", 4)
    np.testing.assert_allclose(raw, GOLDEN["global_raw"], atol=1e-5)
    np.testing.assert_allclose(normalise_distance(raw), GOLDEN["global"], atol=1e-5)
    raw = golden_global("e100_query", "e100_ref", "e100_labels", 3)
    np.testing.assert_allclose(raw, GOLDEN["e100_global_raw"], atol=1e-5)
    previous = normalise_distance(golden_global("query", "prev", "prev_labels", 4))
    np.testing.assert_allclose(previous, GOLDEN["pf_gm"], atol=1e-5)


def test_three_nearest_neighbours_equal_the_released_code(small_blocks):
    raw = golden_global("query", "ref", "ref_labels", 4, k=3)
    np.testing.assert_allclose(raw, GOLDEN["global_raw_k3"], atol=1e-5)


def test_a_label_without_pixels_is_absent_and_normalises_to_exactly_one():
    raw = golden_global("query", "ref", "ref_labels", 6)[..., GOLDEN["ids_with_absent"]]
    normalised = normalise_distance(raw)
    np.testing.assert_allclose(normalised, GOLDEN["global_absent"], atol=1e-5)
    absent = np.asarray(GOLDEN["global_raw_absent"]) == np.float32(ABSENT)
    assert absent.any() and np.array_equal(raw == ABSENT, absent)
    assert np.all(np.asarray(normalised)[absent] == 1.0)


@pytest.mark.parametrize("window", [1, 4, 15])
def test_local_distances_equal_the_released_code(window):
    raw = local_matching(
        GOLDEN["query"][None], GOLDEN["prev"][None], GOLDEN["prev_labels"][None], 4, window
    )[0]
    normalised = normalise_distance(raw)
    np.testing.assert_allclose(normalised, GOLDEN[f"local_K{window}"], atol=1e-5)
    assert np.array_equal(normalised == 1.0, GOLDEN[f"local_K{window}"] == 1.0)


def test_local_distances_of_100_channels_equal_the_released_code():
    raw = local_matching(
        GOLDEN["e100_query"][None], GOLDEN["e100_ref"][None], GOLDEN["e100_labels"][None], 3, 15
    )[0]
    np.testing.assert_allclose(normalise_distance(raw), GOLDEN["e100_local_K15"], atol=1e-5)


# ---- chunked = dense ----


@pytest.mark.parametrize(
    "k, block, kernel_bytes",
    [(1, 2, OWN), (1, 512, ONE), (1, 2, ALL), (3, 7, OWN), (3, 7, FEW), (90, 512, OWN)],
)
def test_blocked_global_matching_equals_dense_with_ties(k, block, kernel_bytes, monkeypatch):
    monkeypatch.setattr(global_search, "CPU_QUERIES", 22)  # several uneven chunks of queries
    monkeypatch.setattr(global_search, "BLOCK", block)
    query, reference = tied(2, 5, 7, 3), tied(2, 60, 3, seed=1)
    labels = random_labels(2, 60)
    assert_equal_with_gradients(
        lambda q, r: global_matching(q, r, labels, 4, k=k, kernel_bytes=kernel_bytes),
        dense_global(query, reference, labels, 4, k),
        query,
        reference,
        tolerance=0.0 if k == 1 else 1e-5,  # a mean of k = 90: rounding is 4e-7
    )


@pytest.mark.parametrize(
    "size, window, kernel_bytes",
    [
        ((19, 37), 3, OWN),
        ((19, 37), 3, 5 * FEW),
        ((8, 16), 2, ONE),
        ((5, 6), 9, ALL),
        ((9, 1), 0, OWN),
    ],
)
def test_tiled_local_matching_equals_dense_with_ties(size, window, kernel_bytes):
    query, previous = tied(2, *size, 3), tied(2, *size, 3, seed=1)
    labels = random_labels(2, *size)
    assert_equal_with_gradients(
        lambda q, p: local_matching(q, p, labels, 4, window, kernel_bytes=kernel_bytes),
        dense_local(query, previous, labels, 4, window),
        query,
        previous,
    )


def test_evaluation_without_gradient_looks_for_no_winner():
    query, labels = tied(1, 6, 7, 3), random_labels(1, 6, 7)

    def both(q):
        near = local_matching(q, query, labels, 4, 2)
        return global_matching(q, query.reshape(1, 42, 3), labels.reshape(1, 42), 4), near

    def comparisons(f):  # with the minimum: how a winner is found
        return str(jax.make_jaxpr(f)(query)).count("= eq ")

    assert comparisons(both) < comparisons(lambda q: jax.vjp(both, q)[0])


def test_results_do_not_depend_on_jit(small_blocks):
    query, reference, labels = tied(1, 3, 4, 2), tied(1, 9, 2, seed=1), random_labels(1, 9)
    near = random_labels(1, 3, 4)
    run = partial(global_matching, query, reference, labels, 4)
    run_local = partial(local_matching, query, query[:, ::-1], near, 4, 1)
    compiled = jax.jit(run)(), jax.jit(run_local)()
    with jax.disable_jit():
        assert np.array_equal(run(), compiled[0]) and np.array_equal(run_local(), compiled[1])


def test_the_batch_is_independent_videos(small_blocks):
    query, reference = tied(3, 5, 6, 4), tied(3, 40, 4, seed=1)
    labels, near = random_labels(3, 40), random_labels(3, 5, 6)
    together = global_matching(query, reference, labels, 4)
    together_local = local_matching(query, query[::-1], near, 4, 2)
    for i in range(3):
        one = slice(i, i + 1)
        alone = global_matching(query[one], reference[one], labels[one], 4)
        assert np.array_equal(together[one], alone)
        alone = local_matching(query[one], query[::-1][one], near[one], 4, 2)
        assert np.array_equal(together_local[one], alone)
    mapped = jax.vmap(lambda q, r, y: global_matching(q[None], r[None], y[None], 4)[0])
    assert np.array_equal(mapped(query, reference, labels), together)


# ---- arguments ----


def test_count_hides_later_references_without_recompiling(small_blocks):
    query, reference, labels = tied(1, 5, 6, 3), tied(1, 50, 3, seed=1), random_labels(1, 50)
    traces = []

    @jax.jit
    def match(labels, count):
        traces.append(1)
        return global_matching(query, reference, labels, 4, count=count)

    for seed, count in enumerate([0, 1, 13, 50]):
        labels = random_labels(1, 50, seed=seed)
        seen = jnp.where(jnp.arange(50) < count, labels, -1)
        expected = dense_global(query, reference, seen, 4)(query, reference)
        assert np.array_equal(match(labels, jnp.int32(count)), expected)
    assert len(traces) == 1


def test_count_keeps_later_references_out_of_the_gradient():
    query, reference = tied(1, 4, 4, 3), tied(1, 20, 3, seed=1)
    labels = jnp.zeros((1, 20), jnp.int32)
    gradient = jax.grad(
        lambda r: jnp.sum(global_matching(query, r, labels, 1, count=jnp.int32(6)))
    )(reference)
    assert np.any(gradient[:, :6] != 0) and np.all(gradient[:, 6:] == 0)


def test_padding_three_labels_to_eight_changes_nothing():
    query, previous = tied(1, 9, 9, 3), tied(1, 9, 9, 3, seed=1)
    labels = random_labels(1, 9, 9, num_labels=4)

    def both(q, num_labels):
        far = global_matching(q, previous.reshape(1, 81, 3), labels.reshape(1, 81), num_labels)
        return jnp.stack([far, local_matching(q, previous, labels, num_labels, 2)])

    few, many = both(query, 3), both(query, 8)
    assert np.array_equal(many[..., :3], few) and np.all(many[..., 3:] == ABSENT)
    gradients = [
        jax.grad(lambda q, n=n: jnp.sum(normalise_distance(both(q, n))))(query) for n in (3, 8)
    ]
    assert np.array_equal(*gradients)


def test_permuting_labels_permutes_the_result():
    query, reference = GOLDEN["query"][None], pixels(GOLDEN["ref"])
    labels = GOLDEN["ref_labels"].reshape(1, -1)
    permutation = jnp.asarray([2, 0, 3, 1])
    permuted = global_matching(query, reference, permutation[labels], 4)
    expected = global_matching(query, reference, labels, 4)
    np.testing.assert_allclose(permuted[..., permutation], expected, atol=1e-5)


def test_bfloat16_embeddings_give_float32_distances_of_the_rounded_values():
    query, reference = (GOLDEN[key].astype(jnp.bfloat16) for key in ("query", "ref"))
    labels = GOLDEN["ref_labels"]
    for f in (
        lambda q, r: global_matching(q[None], pixels(r), labels.reshape(1, -1), 4),
        lambda q, r: local_matching(q[None], r[None], labels[None], 4, 3),
    ):
        d = f(query, reference)
        assert d.dtype == jnp.float32
        exact = f(query.astype(jnp.float32), reference.astype(jnp.float32))
        np.testing.assert_allclose(d, exact, atol=1e-5)
        gradient = jax.grad(lambda q, f=f: jnp.sum(normalise_distance(f(q, reference))))(query)
        assert gradient.dtype == jnp.bfloat16


@pytest.mark.parametrize(
    "query, reference, labels",
    [
        ((1, 4, 5, 3), (1, 20, 4), (1, 20)),
        ((1, 4, 5, 3), (1, 4, 5, 3), (1, 4, 5)),
        ((1, 4, 5, 3), (1, 20, 3), (1, 19)),
    ],
)
def test_global_matching_refuses_shapes_that_do_not_fit(query, reference, labels):
    with pytest.raises(ValueError, match="global_matching"):
        global_matching(jnp.zeros(query), jnp.zeros(reference), jnp.zeros(labels, jnp.int32), 2)


def test_local_matching_refuses_labels_of_another_grid():
    x = jnp.zeros((1, 4, 5, 3))
    with pytest.raises(ValueError, match="grid"):
        local_matching(x, x, jnp.zeros((1, 8, 10), jnp.int32), 2, 1)


# ---- distance and sampling ----


def test_normalised_distance_is_the_papers_with_finite_gradients_everywhere():
    d = jnp.asarray([-1e-4, 0.0, 0.3, 2.0, 15.0, 80.0, 1e4, 1e19, ABSENT, 1e30, jnp.inf])
    paper = 1 - 2 / (1 + np.exp(np.minimum(np.asarray(d, np.float64), 700)))
    np.testing.assert_allclose(normalise_distance(d), paper, atol=1e-6)
    gradient = jax.vmap(jax.grad(normalise_distance))(d)
    assert np.all(np.isfinite(gradient)) and gradient[1] == 0.5 and gradient[8] == 0
    assert normalise_distance(jnp.float32(ABSENT)) == 1.0


def test_gradients_are_finite_with_absent_labels_and_far_embeddings():
    query, reference = tied(1, 4, 5, 3) * 1e4, tied(1, 20, 3, seed=1)
    labels = jnp.zeros((1, 20), jnp.int32)

    def total(q, r):
        near = local_matching(q, r.reshape(1, 4, 5, 3), labels.reshape(1, 4, 5), 3, 1)
        far = global_matching(q, r, labels, 3, k=2)
        return jnp.sum(normalise_distance(far) + normalise_distance(near))

    for gradient in jax.grad(total, (0, 1))(query, reference):
        assert np.all(np.isfinite(gradient))


def test_sampled_references_are_distinct_pixels_of_their_label():
    labels = random_labels(2, 12, 13)
    labels = labels.at[0, :2].set(2)
    embedding = jnp.arange(2 * 12 * 13, dtype=jnp.float32).reshape(2, 12, 13, 1)
    reference, owner = sample_references(jax.random.key(0), embedding, labels, 4, per_label=30)
    assert reference.shape == (2, 120, 1) and owner.shape == (2, 120)
    for b in range(2):
        for label in range(4):
            drawn = np.asarray(reference[b, owner[b] == label, 0]).astype(int)
            pool = np.asarray(embedding[b, labels[b] == label, 0]).astype(int)
            assert len(set(drawn)) == len(drawn) == min(30, len(pool))
            assert set(drawn) <= set(pool)
    other = sample_references(jax.random.key(1), embedding, labels, 4, per_label=30)[0]
    assert not np.array_equal(reference, other)


def test_sampling_is_uniform_over_the_pixels_of_a_label():
    labels = jnp.asarray([[[0] * 6 + [1] * 6]])
    embedding = jnp.arange(12.0).reshape(1, 1, 12, 1)
    draw = jax.jit(lambda key: sample_references(key, embedding, labels, 2, per_label=2)[0])
    drawn = jax.vmap(draw)(jax.random.split(jax.random.key(0), 3000))
    frequency = np.bincount(np.asarray(drawn).ravel().astype(int), minlength=12) / 3000
    np.testing.assert_allclose(frequency, 1 / 3, atol=0.05)


def test_a_small_image_is_returned_whole():
    labels = random_labels(1, 4, 5)
    embedding = tied(1, 4, 5, 3)
    reference, owner = sample_references(jax.random.key(0), embedding, labels, 4, per_label=20)
    assert np.array_equal(reference, embedding.reshape(1, 20, 3))
    known = np.asarray(labels).reshape(1, 20)
    assert np.array_equal(owner, np.where((known >= 0) & (known < 4), known, -1))
