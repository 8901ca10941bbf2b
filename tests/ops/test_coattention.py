"""Co-attention: loop over rows = definition, with gradients; its memory; the release's numbers."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.fixtures import load_npz
from vos_jax.ops import coattention
from vos_jax.ops.coattention import dense_summaries, gated, off_orthogonal, summaries

B, R, HEIGHT, WIDTH, C, D = 2, 3, 6, 7, 4, 5
ROW = R * WIDTH * HEIGHT * WIDTH * 4  # bytes of the scores of one row of all references
FORMS = [{}, {"joint": True}, {"legacy": True}, {"legacy": True, "joint": True}]


@pytest.fixture(scope="module")
def arrays():
    """Scores up to about +-30; a reference that does not count, in one video."""
    rng = np.random.default_rng(0)
    drawn = {
        "query": 3 * rng.normal(size=(B, HEIGHT * WIDTH, C)),
        "keys": 3 * rng.normal(size=(B, R, HEIGHT, WIDTH, C)),
        "values": rng.normal(size=(B, R, HEIGHT, WIDTH, D)),
    }
    valid = np.array([[True, True, True], [True, False, True]])
    return {k: x.astype(np.float32) for k, x in drawn.items()} | {"valid": valid}


def with_gradients(function, arrays, **form):
    """The summaries, and the gradients of their weighted sum."""
    weights = np.random.default_rng(1).normal(size=(B, 1 if form.get("joint") else R, 42, D))

    @jax.jit
    def run(query, keys, values):
        of_valid = partial(function, valid=jnp.asarray(arrays["valid"]), **form)
        result, pull = jax.vjp(of_valid, query, keys, values)
        return result, *pull(jnp.asarray(weights, jnp.float32))

    return run(*(arrays[name] for name in ("query", "keys", "values")))


@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize("rows", [1, 2, 6])
def test_the_loop_equals_the_definition_with_gradients(form, rows, arrays, monkeypatch):
    monkeypatch.setattr(coattention, "CPU_PIXELS", rows * WIDTH)
    expected = with_gradients(dense_summaries, arrays, **form)
    for found, x in zip(with_gradients(summaries, arrays, **form), expected, strict=True):
        np.testing.assert_allclose(found, x, rtol=0, atol=1e-5 * np.abs(x).max())


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_the_bytes_of_a_part_change_nothing_but_the_order_of_sums(form, arrays, monkeypatch):
    monkeypatch.setattr(coattention, "CPU_PIXELS", WIDTH)
    expected = with_gradients(dense_summaries, arrays, **form)
    found = with_gradients(partial(summaries, kernel_bytes=3 * ROW), arrays, **form)
    for x, y in zip(found, expected, strict=True):
        np.testing.assert_allclose(x, y, rtol=0, atol=1e-5 * np.abs(y).max())


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_a_reference_that_does_not_count_is_as_good_as_none(form, arrays):
    fewer = {k: x[1:, [0, 2]] if x.ndim == 5 else x[1:] for k, x in arrays.items()}
    fewer["valid"] = np.ones((1, 2), bool)
    found, expected = summaries(**arrays, **form)[1], summaries(**fewer, **form)[0]
    if not form.get("joint"):
        assert not found[1].any()
        found = found[np.array([0, 2])]
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("gradient", [False, True])
@pytest.mark.parametrize("legacy", [False, True])
def test_the_memory_is_under_a_tenth_of_the_definitions_at_473x473(legacy, gradient):
    """Five references; what comes besides of the inputs."""
    grid, channels = 60, 256
    query = jax.ShapeDtypeStruct((1, grid * grid, channels), jnp.float32)
    keys = jax.ShapeDtypeStruct((1, 5, grid, grid, channels), jnp.float32)
    valid = jnp.ones((1, 5), bool)

    def bytes_of(function):
        def read(query, keys):
            return function(query, keys, keys, valid, legacy=legacy)

        def pulled(query, keys):
            return jax.grad(lambda *x: read(*x).sum(), (0, 1))(query, keys)

        compiled = jax.jit(pulled if gradient else read).lower(query, keys).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert bytes_of(summaries) < bytes_of(dense_summaries) / 10


def test_both_directions_and_the_gate_are_the_releases():
    stored = load_npz("cosnet", "ops")
    va, vb = (jnp.moveaxis(jnp.asarray(stored[name]), 1, -1) for name in ("co_va", "co_vb"))
    channels, valid = va.shape[-1], jnp.ones((1, 1), bool)
    query = va.reshape(1, -1, channels) @ stored["co_w"].T
    affinity = jnp.einsum("bqc,bpc->bqp", query, vb.reshape(1, -1, channels))
    np.testing.assert_allclose(affinity, stored["co_affinity"], atol=1e-5)
    turned = vb.reshape(1, -1, channels) @ stored["co_w"]
    found = {
        "a": summaries(query, vb[:, None], vb[:, None], valid),
        "b": summaries(turned, va[:, None], va[:, None], valid),
    }
    for side, summary in found.items():
        for name, x in {
            "att": summary,
            "gated": gated(summary, stored["co_gate_w"].ravel()),
        }.items():
            x = np.asarray(x).reshape(va.shape).transpose(0, 3, 1, 2)
            np.testing.assert_allclose(x, stored[f"co_{name}_{side}"], atol=1e-5)


def test_a_gate_with_bias_lets_more_through():
    summary, weight = jnp.array([[1.0, -2.0]]), jnp.array([0.5, 0.25])
    np.testing.assert_allclose(gated(summary, weight), summary / 2)
    np.testing.assert_allclose(gated(summary, weight, np.log(3)), 0.75 * summary, rtol=1e-6)


def test_the_penalty_is_zero_for_rotations_alone():
    turn = jnp.array([[0.6, 0.8], [-0.8, 0.6]])
    assert off_orthogonal(turn) < 1e-6
    np.testing.assert_allclose(off_orthogonal(2 * turn), 3 * 2 / 4, rtol=1e-5)


def test_arrays_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"expected query \[B, Q, C\], keys .*found \(1, 42, 3\)"):
        summaries(*(jnp.zeros(s) for s in ((1, 42, 3), (1, 2, 6, 7, 4), (1, 2, 6, 7, 4), (1, 2))))
