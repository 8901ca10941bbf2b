"""Multi-local matching against the released code of CFBI and against its definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.fixtures import load_npz, skip_where_trimmed
from tests.ops.test_matching import assert_equal_with_gradients, dense, random_labels, tied
from vos_jax.ops.matching import ABSENT, normalise_distance
from vos_jax.ops.multi_local import multi_local_matching
from vos_jax.ops.resize import resize_bilinear, resize_nearest

GOLDEN = load_npz("cfbi", "ops")
BIAS = GOLDEN["in_dis_bias"][:, None]

# golden array -> windows, factor, whether it is matched at half the resolution
RELEASED = {
    "local_cfbi": ((2, 4, 6, 8, 10, 12), 1, True),
    "local_cfbi_loop": ((2, 4, 6, 8, 10, 12), 1, True),
    "local_8x": ((2, 4, 6, 8, 10, 12), 1, False),
    "local_16x": ((2, 4, 6, 8, 10), 1, False),
    "local_4x_atrous2": ((4, 8, 12, 16, 20, 24), 2, False),
    "local_small": ((1, 2, 3), 1, False),
    "local_small_loop": ((1, 2, 3), 1, False),
    "local_single": ((3,), 1, False),
    "local_odd_atrous2": ((3, 5, 7), 2, False),
    "local_atrous3": ((3, 6, 8), 3, False),
    "local_down_atrous2": ((2, 4, 6), 2, True),
    "local_cfbi_even_size": ((2, 4, 6), 1, True),
    "local_f16": ((2, 4, 6, 8, 10, 12), 1, True),
}
KEPT = {"local_cfbi", "local_4x_atrous2", "local_odd_atrous2", "local_cfbi_even_size"}


@pytest.mark.parametrize("name", RELEASED)
def test_maps_equal_the_released_code(name):
    skip_where_trimmed(name, GOLDEN, RELEASED.keys() - KEPT)
    windows, rate, halved = RELEASED[name]
    expected = np.moveaxis(GOLDEN[name], (0, 1), (-2, -1))
    h, w = expected.shape[:2]
    query, previous, labels = (GOLDEN[f"in_{k}"][None, :h, :w] for k in ("cur", "prev", "lab_prev"))
    if halved:
        size = h // 2 + 1, w // 2 + 1
        query, previous = (resize_bilinear(jnp.asarray(x), size) for x in (query, previous))
        labels = resize_nearest(jnp.asarray(labels), size, align_corners=False)
    if name == "local_f16":
        query, previous = jnp.asarray(query, jnp.float16), jnp.asarray(previous, jnp.float16)
    distances = multi_local_matching(
        jnp.asarray(query), jnp.asarray(previous), jnp.asarray(labels), len(BIAS), windows, rate
    )
    maps = normalise_distance(distances, BIAS)
    order = [len(windows) - 1, *range(len(windows) - 1)]  # the release has the largest first
    maps = resize_bilinear(maps.reshape(*maps.shape[:3], -1), (h, w)).reshape(expected.shape)
    # in half precision another order of summation may round a step the other way, in few values
    atol = 1.5e-2 if name == "local_f16" else 5e-6
    np.testing.assert_allclose(maps[..., order], expected, atol=atol)
    assert (np.abs(maps[..., order] - expected) < 5e-6).mean() > 0.95


def dense_windows(query, previous, labels, num_labels, windows, rate):
    """The definition, [B, h, w, n * L]: all windows one after the other."""
    batch, h, w = labels.shape
    row, column = np.divmod(np.arange(h * w), w)
    dy, dx = row[:, None] - row, column[:, None] - column
    flat = np.asarray(labels).reshape(batch, 1, 1, h * w)
    own = flat == np.arange(num_labels)[:, None, None]
    allowed = [
        (np.maximum(np.abs(dy), np.abs(dx)) <= window) & (dy % rate == 0) & (dx % rate == 0) & own
        for window in windows
    ]
    return dense(query, previous, np.concatenate(allowed, axis=1))


# kernel_bytes: the CPU's own (0), one tile at a time, all at once
@pytest.mark.parametrize(
    ("size", "windows", "rate", "kernel_bytes"),
    [
        ((5, 7), (0, 1, 3), 1, 0),
        ((5, 7), (0, 1, 3), 1, 2**30),
        ((6, 5), (2, 4, 20), 2, 0),
        ((6, 5), (2, 4, 20), 2, 2**30),
        ((4, 4), (1, 2), 3, 1),
        ((1, 6), (2, 5), 1, 0),
    ],
)
def test_distances_and_gradients_equal_the_definition(size, windows, rate, kernel_bytes):
    """Also where many distances tie: the lowest row-major offset wins."""
    query, previous = tied(2, *size, 3), tied(2, *size, 3, seed=1)
    labels = random_labels(2, *size, num_labels=3)

    def ours(query, previous):
        d = multi_local_matching(
            query, previous, labels, 3, windows, rate, kernel_bytes=kernel_bytes
        )
        return jnp.swapaxes(d, 3, 4).reshape(*d.shape[:3], -1)

    definition = dense_windows(query, previous, labels, 3, windows, rate)
    assert_equal_with_gradients(ours, definition, query, previous)


def test_label_that_a_window_lacks_is_absent_in_it_alone():
    query = jnp.zeros((1, 1, 8, 2))
    labels = jnp.asarray([[[0, 0, 0, 0, 0, 0, 0, 1]]])
    d = multi_local_matching(query, query, labels, 3, (1, 3))
    assert (d[0, 0, 0, :, 1] == np.array([0, ABSENT, ABSENT])).all()
    assert (d[0, 0, 4, 1] == np.array([ABSENT, 0])).all()
    assert (d[0, 0, 6, 1] == 0).all() and (d[..., 2, :] == ABSENT).all()


def _temporaries(h, w=48, channels=16):
    embedding = jax.ShapeDtypeStruct((1, h, w, channels), jnp.float32)
    labels = jax.ShapeDtypeStruct((1, h, w), jnp.int32)

    def loss(query, previous, labels):
        return multi_local_matching(query, previous, labels, 2, (6, 12)).sum()

    compiled = jax.jit(jax.grad(loss, argnums=(0, 1))).lower(embedding, embedding, labels).compile()
    return compiled.memory_analysis().temp_size_in_bytes


def test_memory_of_the_gradient_does_not_hold_the_windows_of_all_queries():
    every_window = 40 * 48 * 25**2 * 4
    assert _temporaries(80) - _temporaries(40) < every_window / 5


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"previous": jnp.zeros((1, 4, 4, 3))}, "bring both frames to one grid"),
        ({"previous_labels": jnp.zeros((1, 4, 4), int)}, "resize the labels"),
        ({"windows": (4, 2)}, "ascending windows"),
        ({"windows": ()}, "ascending windows"),
        ({"rate": 0}, "rate >= 1"),
    ],
)
def test_wrong_arguments_are_refused(changed, message):
    right = dict(query=jnp.zeros((1, 4, 5, 3)), previous=jnp.zeros((1, 4, 5, 3)))
    right |= dict(previous_labels=jnp.zeros((1, 4, 5), int), num_labels=2, windows=(1, 2))
    with pytest.raises(ValueError, match=message):
        multi_local_matching(**(right | changed))
