import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.fixtures import load_npz
from vos_jax.ops.resize import (
    nearest_indices,
    resize_bicubic,
    resize_bilinear,
    resize_nearest,
    scale_dimension,
)

GOLDEN = load_npz("feelvos", "ops")
BILINEAR = sorted(key for key in GOLDEN if key.startswith("bil_") and key != "bil_in")


@pytest.mark.parametrize("key", BILINEAR)
def test_bilinear_equals_tensorflow_on_both_axis_orders(key):
    expected = GOLDEN[key]
    x = jnp.asarray(GOLDEN["bil_in"])[None]
    size = expected.shape[:2]
    assert np.abs(resize_bilinear(x, size)[0] - expected).max() <= 1e-5
    channels_first = resize_bilinear(jnp.moveaxis(x, -1, 1), size, axes=(2, 3))
    assert np.abs(jnp.moveaxis(channels_first, 1, -1)[0] - expected).max() <= 1e-5


@pytest.mark.parametrize("axes", [(1, 2), (2, 3), (-2, -1), (0, 3)])
def test_bilinear_gradient_is_the_transpose_of_the_map(axes):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(3, 5, 6, 4)), jnp.float32)

    def resize(x):
        return resize_bilinear(x, (7, 2), axes)

    y = resize(x)
    g = jnp.asarray(rng.normal(size=y.shape), jnp.float32)
    pulled = jax.vjp(resize, x)[1](g)[0]
    assert pulled.shape == x.shape
    np.testing.assert_allclose(jnp.vdot(pulled, x), jnp.vdot(g, y), rtol=1e-4)


def test_bilinear_keeps_dtype_and_returns_equal_sizes_unchanged():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 4, 5, 2)), jnp.bfloat16)
    assert resize_bilinear(x, (7, 9)).dtype == jnp.bfloat16
    assert np.array_equal(resize_bilinear(x, (4, 5)), x)


@pytest.mark.parametrize("key", sorted(key for key in GOLDEN if key.startswith("nn_idx_")))
def test_nearest_indices_equal_tensorflow(key):
    expected = GOLDEN[key]
    assert np.array_equal(nearest_indices(int(key[7:]), len(expected)), expected)


def test_lengths_of_one_read_the_first_pixel():
    assert nearest_indices(1, 4).tolist() == [0, 0, 0, 0]
    assert nearest_indices(9, 1).tolist() == [0]
    x = jnp.arange(12.0).reshape(1, 3, 4, 1)
    assert np.array_equal(resize_bilinear(x, (1, 1)), x[:, :1, :1])
    assert np.array_equal(resize_bilinear(x[:, :1, :1], (2, 3)), np.zeros((1, 2, 3, 1)))


def test_nearest_resizes_labels_on_any_pair_of_axes():
    labels = jnp.asarray(GOLDEN["init_labels"], jnp.uint8)
    size = 13, 17
    expected = np.asarray(labels)[nearest_indices(50, 13)][:, nearest_indices(66, 17)]
    resized = resize_nearest(labels[None], size)
    assert resized.dtype == jnp.uint8 and np.array_equal(resized[0], expected)
    assert np.array_equal(resize_nearest(labels[None, None], size, axes=(2, 3))[0, 0], expected)
    one_hot = expected[..., None] == np.arange(4)
    assert np.array_equal(one_hot, GOLDEN["init_softmax"])


def test_scale_dimension_equals_the_released_code():
    table = GOLDEN["scale_dim"]
    for n, quarter, eighth, sixteenth, larger in table:
        assert scale_dimension(n, 1 / 4) == quarter
        assert scale_dimension(n, 1 / 8) == eighth
        assert scale_dimension(n, 1 / 16) == sixteenth
        assert scale_dimension(n, 1.3) == larger


@pytest.mark.parametrize("size, axes", [((3,), (1, 2)), ((3, 0), (1, 2)), ((3, 4), (1, -3))])
def test_bad_sizes_and_axes_are_refused(size, axes):
    with pytest.raises(ValueError, match="resize"):
        resize_bilinear(jnp.zeros((1, 4, 5, 2)), size, axes)


TORCH = load_npz("cfbi", "ops")


@pytest.mark.parametrize("key", sorted(key for key in TORCH if key.startswith("nearest_")))
def test_nearest_indices_without_aligned_corners_equal_pytorch(key):
    _, n, _, m = key.split("_")
    assert np.array_equal(nearest_indices(int(n), int(m), align_corners=False), TORCH[key])


RESIZE = {"bilinear": resize_bilinear, "bicubic": resize_bicubic}


@pytest.mark.parametrize("kind", RESIZE)
@pytest.mark.parametrize("size", [(9, 13), (10, 25), (3, 4), (5, 7)])
def test_resizing_equals_pytorch_on_both_axis_orders(kind, size):
    resize = RESIZE[kind]
    x, expected = jnp.asarray(TORCH["in_resize"])[None], TORCH[f"resize_{kind}_{size[0]}x{size[1]}"]
    np.testing.assert_allclose(resize(x, size, (2, 3))[0], expected, atol=5e-6)
    channels_last = resize(jnp.moveaxis(x, 1, -1), size)[0]
    np.testing.assert_allclose(jnp.moveaxis(channels_last, -1, 0), expected, atol=5e-6)
