"""The memory read: loop over frames = definition = parts on 8 devices; what counts in it."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.eight_devices import eight_devices
from vos_jax.ops.memory_read import affinity, dense_memory_read, memory_read

B, N, T, P, Q, C, D = 2, 3, 8, 12, 10, 4, 5
SCORES = N * P * Q * 4  # bytes of one memory frame's, for each video


@pytest.fixture(scope="module")
def arrays():
    """Scores up to about +-30, frames that count for some objects, one object without any."""
    rng = np.random.default_rng(0)
    valid = rng.random((B, N, T)) < 0.6
    valid[0, 1], valid[..., 6:] = False, False  # an object without memory; unused capacity
    drawn = {
        "query": 3 * rng.normal(size=(B, Q, C)),
        "keys": 3 * rng.normal(size=(B, N, T, P, C)),
        "values": rng.normal(size=(B, N, T, P, D)),
        "weights": rng.normal(size=(B, N, Q, D)),
    }
    return {k: x.astype(np.float32) for k, x in drawn.items()} | {"valid": valid}


@pytest.fixture(scope="module", autouse=True)
def on_eight_devices(arrays, tmp_path_factory):
    """A process with 8 fake devices that works while other tests run: call it for arrays."""
    folder = tmp_path_factory.mktemp("devices")
    np.savez(folder / "in.npz", **arrays)
    module = "tests.ops.sharded_memory_read"
    with eight_devices(module, folder / "in.npz", folder / "out.npz") as finished:

        def results():
            finished()
            return dict(np.load(folder / "out.npz"))

        yield results


def with_gradients(read, arrays, **options):
    """The read and the gradients of its weighted sum for query, keys and values."""

    @jax.jit
    def run(query, keys, values):
        read_of = partial(read, valid=jnp.asarray(arrays["valid"]), **options)
        result, pull = jax.vjp(read_of, query, keys, values)
        return result, *pull(jnp.asarray(arrays["weights"]))

    return run(*(arrays[name] for name in ("query", "keys", "values")))


def assert_close(found, expected):
    for x, y in zip(found, expected, strict=True):
        y = np.asarray(y)
        assert np.abs(y).max() > 0.1
        # scores of 30 round to 2e-6 of the largest weight
        np.testing.assert_allclose(x, y, rtol=0, atol=1e-4 * np.abs(y).max())


# kernel_bytes: the CPU's one frame (0), two or three at a time (8 are no multiple of 3), all
@pytest.mark.parametrize(
    "options, kernel_bytes",
    [
        ({}, 0),
        ({}, 3 * SCORES),
        ({"scale": 1.0}, 2 * SCORES),
        ({"top_k": 5}, 0),
        ({"top_k": 5}, 3 * SCORES),
        ({"top_k": 1000}, 2**30),
    ],
)
def test_loop_over_groups_equals_the_dense_read_with_gradients(arrays, options, kernel_bytes):
    found = with_gradients(memory_read, arrays, kernel_bytes=kernel_bytes, **options)
    assert_close(found, with_gradients(dense_memory_read, arrays, **options))


@pytest.mark.parametrize("top_k", [0, 5])
def test_eight_devices_read_as_one_does_with_gradients(arrays, on_eight_devices, top_k):
    found = on_eight_devices()
    assert found[f"parts_{top_k}"] == 8  # gradients of the keys lie in parts, too
    names = ("read", "query", "keys", "values")
    expected = with_gradients(dense_memory_read, arrays, top_k=top_k)
    assert_close([found[f"{name}_{top_k}"] for name in names], expected)


def test_the_read_is_the_papers_sum(arrays):
    """Equation 1 by loops in float64, for one object and query pixel."""
    b, n, q = 1, 2, 3
    counts = arrays["valid"][b, n]
    keys = arrays["keys"][b, n][counts].reshape(-1, C).astype(np.float64)
    values = arrays["values"][b, n][counts].reshape(-1, D)
    weight = np.array([np.exp(key @ arrays["query"][b, q]) for key in keys])
    expected = sum(w * v for w, v in zip(weight / weight.sum(), values, strict=True))
    args = (arrays["query"], arrays["keys"], arrays["values"], jnp.asarray(arrays["valid"]))
    np.testing.assert_allclose(memory_read(*args, scale=1.0)[b, n, q], expected, atol=1e-4)


@pytest.mark.parametrize("kernel_bytes", [0, 3 * SCORES])
def test_frames_that_do_not_count_change_nothing_whatever_they_hold(arrays, kernel_bytes):
    read = partial(memory_read, kernel_bytes=kernel_bytes)
    fill = np.where(arrays["valid"][..., None, None], 0, 1e4).astype(np.float32)
    spoilt = arrays | {"keys": arrays["keys"] + fill, "values": arrays["values"] + fill}
    for found, expected in zip(
        with_gradients(read, spoilt), with_gradients(read, arrays), strict=True
    ):
        np.testing.assert_array_equal(found, expected)


def test_an_object_without_memory_reads_zeros_and_gives_no_gradient(arrays):
    read, _, dkeys, dvalues = with_gradients(memory_read, arrays)
    for x in (read, dkeys, dvalues):
        assert np.all(x[0, 1] == 0) and np.all(np.isfinite(x))


def test_top_k_leaves_weight_on_k_pixels_for_each_query(arrays):
    weights = affinity(arrays["query"], arrays["keys"], jnp.asarray(arrays["valid"]), top_k=7)
    counted = np.asarray((weights > 0).sum(axis=2))
    assert counted.max() == 7 and np.all(counted[0, 1] == 0)
    np.testing.assert_allclose(weights.sum(axis=2)[1], 1, atol=1e-5)


def test_bfloat16_is_accumulated_in_float32(arrays):
    rounded = {k: jnp.asarray(x, jnp.bfloat16) for k, x in arrays.items() if k != "valid"}
    args = [rounded[name] for name in ("query", "keys", "values")]
    valid = jnp.asarray(arrays["valid"])
    found = memory_read(*args, valid)
    assert found.dtype == jnp.float32
    exact = dense_memory_read(*(x.astype(jnp.float32) for x in args), valid)
    np.testing.assert_allclose(found, exact, atol=0.02)
    assert jax.grad(lambda k: memory_read(args[0], k, args[2]).sum())(args[1]).dtype == jnp.bfloat16


def test_memory_of_read_and_gradient_does_not_grow_with_the_frames():
    """Beyond the bank and its gradients, by what the compiler plans."""

    def temporaries(frames):
        shapes = [(1, 128, 16), (1, 1, frames, 128, 16), (1, 1, frames, 128, 32)]
        shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
        total = jax.jit(jax.grad(lambda *x: memory_read(*x).sum(), argnums=(0, 1, 2)))
        plan = total.lower(*shapes).compile().memory_analysis()
        return plan.temp_size_in_bytes

    few, many = temporaries(4), temporaries(32)
    one_score_matrix = 4 * 128 * 128
    assert many < few + one_score_matrix  # the dense form needs 28 more of them, and more


def test_shapes_that_do_not_fit_are_refused_with_what_was_found(arrays):
    query, keys, values = (arrays[name] for name in ("query", "keys", "values"))
    with pytest.raises(ValueError, match=r"query \[B, Q, C\].*found \(2, 10, 3\)"):
        memory_read(query[..., :3], keys, values)
    with pytest.raises(ValueError, match=r"valid \[B, N, T\] = \(2, 3, 8\), found \(2, 3, 4\)"):
        memory_read(query, keys, values, jnp.ones((2, 3, 4), bool))
    mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    assert memory_read(query, keys, values, mesh=mesh).shape == (B, N, Q, D)
