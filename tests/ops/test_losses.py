import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.fixtures import load_npz
from vos_jax.ops.losses import (
    balanced_binary_losses,
    bootstrapped_cross_entropy,
    soft_iou_costs,
)
from vos_jax.ops.resize import resize_bilinear, resize_nearest

GOLDEN = load_npz("feelvos", "ops")


def video(seed=0, channels=3, size=(6, 7), batch=2):
    rng = np.random.default_rng(seed)
    logits = jnp.asarray(rng.normal(size=(batch, channels, *size)) * 3, jnp.float32)
    labels = rng.integers(0, channels, (batch, *size))
    labels[rng.random(labels.shape) < 0.2] = 255
    return logits, jnp.asarray(labels, jnp.uint8)


def dense(logits, labels, k):
    """The k largest losses by stable sorting, one video, numpy."""
    logits, labels = np.asarray(logits, np.float64), np.asarray(labels).ravel()
    logits = logits.reshape(logits.shape[0], -1)
    present = labels != 255
    target = np.where(present, labels, 0)
    loss = np.log(np.exp(logits).sum(0)) - logits[target, np.arange(labels.size)]
    loss = np.where(present, loss, 0)
    chosen = np.argsort(-loss, kind="stable")[:k]
    return loss[chosen].sum() / max(present[chosen].sum(), 1)


@pytest.mark.parametrize("step", [0, 40000, 100000, 250000])
def test_equals_the_released_loss_over_the_schedule(step):
    logits = jnp.moveaxis(jnp.asarray(GOLDEN["loss_logits"]), -1, 0)[None]
    labels = jnp.asarray(GOLDEN["loss_labels"])[None]
    upsampled = resize_bilinear(logits, labels.shape[1:], axes=(2, 3))
    loss = bootstrapped_cross_entropy(upsampled, labels, step)
    np.testing.assert_allclose(loss, [GOLDEN[f"loss_step{step}_up"]], rtol=1e-6)
    # "down": the labels brought to the size of the logits instead
    small = resize_nearest(labels, logits.shape[2:])
    loss = bootstrapped_cross_entropy(logits, small, step)
    np.testing.assert_allclose(loss, [GOLDEN[f"loss_step{step}_down"]], rtol=1e-6)


def test_pixel_count_follows_the_double_precision_formula_at_every_step():
    # Distinct losses (20 per pixel of rank), so that the mean over the first k shows k.
    size, steps = 97, 300
    target = jnp.arange(size, 0, -1, dtype=jnp.float32)
    logits = jnp.stack([-target, jnp.zeros(size)])[None, :, :, None] * 20
    labels = jnp.zeros((1, size, 1), jnp.uint8)
    loss = jax.jit(lambda s: bootstrapped_cross_entropy(logits, labels, s, 0.15, steps)[0])
    for step in range(0, steps + 20):
        r = min(1.0, step / steps)
        k = int((r * 0.15 + (1 - r)) * size)
        expected = 20 * np.arange(size, size - k, -1).mean()
        np.testing.assert_allclose(loss(step), expected, rtol=1e-5)


def test_one_compilation_over_the_whole_schedule():
    logits, labels = video()
    traces = []

    @jax.jit
    def loss(step):
        traces.append(step)
        return bootstrapped_cross_entropy(logits, labels, step, mining_steps=50)

    results = [loss(step) for step in range(0, 60, 7)]
    assert len(traces) == 1 and loss._cache_size() == 1
    assert results[0][0] < results[4][0] < results[8][0]


@pytest.mark.parametrize("step", [0, 3, 10])
def test_equals_stable_sorting_per_video_with_ignored_pixels(step):
    logits, labels = video()
    k = int((step / 10 * 0.15 + (1 - step / 10)) * 42)
    expected = [dense(x, y, k) for x, y in zip(logits, labels, strict=True)]
    loss = bootstrapped_cross_entropy(logits, labels, step, mining_steps=10)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


def test_ties_choose_the_lower_pixel_index():
    logits = jnp.zeros((1, 2, 1, 8))
    labels = jnp.zeros((1, 1, 8), jnp.int32)
    gradient = jax.grad(
        lambda x: bootstrapped_cross_entropy(x, labels, 1, fraction=0.5, mining_steps=0)[0]
    )(logits)
    assert np.flatnonzero(np.asarray(gradient[0, 0, 0])).tolist() == [0, 1, 2, 3]


def test_ignored_pixels_have_no_gradient_and_an_all_ignored_video_has_loss_zero():
    logits, labels = video()
    labels = labels.at[1].set(255)

    def loss(x):
        return bootstrapped_cross_entropy(x, labels, 0)

    gradient = jax.grad(lambda x: loss(x).sum())(logits)
    ignored = np.broadcast_to(np.asarray(labels == 255)[:, None], gradient.shape)
    assert np.all(np.asarray(gradient)[ignored] == 0)
    assert loss(logits)[1] == 0 and loss(logits)[0] > 0


def test_padded_channels_change_neither_value_nor_gradient():
    logits, labels = video()
    padded = jnp.concatenate([logits, jnp.full((2, 5, 6, 7), 1e6)], axis=1)
    valid = jnp.arange(8) < jnp.asarray([3, 3])[:, None]

    def loss(x, valid=None):
        return bootstrapped_cross_entropy(x, labels, 7, mining_steps=10, valid=valid)

    np.testing.assert_allclose(loss(padded, valid), loss(logits), rtol=1e-6)
    gradient = jax.grad(lambda x: loss(x, valid).sum())(padded)
    expected = jax.grad(lambda x: loss(x).sum())(logits)
    np.testing.assert_allclose(gradient[:, :3], expected, atol=1e-7)
    assert np.all(np.asarray(gradient[:, 3:]) == 0)


def test_a_label_without_a_valid_channel_counts_as_ignored():
    logits, labels = video()
    valid = jnp.asarray([[True, True, False]] * 2)
    loss = bootstrapped_cross_entropy(logits, labels, 0, valid=valid)
    without = bootstrapped_cross_entropy(logits[:, :2], jnp.where(labels == 2, 255, labels), 0)
    np.testing.assert_allclose(loss, without, rtol=1e-6)


def test_logits_of_another_size_are_refused():
    with pytest.raises(ValueError, match="upsample"):
        bootstrapped_cross_entropy(jnp.zeros((1, 2, 4, 4)), jnp.zeros((1, 8, 8), jnp.int32), 0)


def test_soft_iou_and_its_gradient_equal_the_release():
    golden = load_npz("rvos", "ops")
    logits, target = (jnp.asarray(golden[f"siou_{k}"])[:, None] for k in ("logits", "target"))

    def costs(logits):
        return jnp.diagonal(soft_iou_costs(jax.nn.sigmoid(logits), target))

    np.testing.assert_allclose(costs(logits), golden["siou_cost"], rtol=1e-5)
    gradient = jax.grad(lambda x: costs(x).sum())(logits)[:, 0]
    np.testing.assert_allclose(gradient, golden["siou_grad"], rtol=1e-4, atol=1e-7)
    maps = jax.nn.sigmoid(golden["match_logits"])[:, :, None]
    scores = soft_iou_costs(maps, golden["match_y"][:, :, None])  # [predictions, objects]
    np.testing.assert_allclose(scores.swapaxes(1, 2), golden["match_scores"], rtol=1e-5)


def test_soft_iou_is_0_for_equal_masks_and_1_where_nothing_meets():
    masks = jnp.zeros((3, 4, 5)).at[0, :2].set(1).at[1, 2:].set(1)
    expected = [[0, 1, 1], [1, 0, 1], [1, 1, 1]]
    np.testing.assert_allclose(soft_iou_costs(masks, masks), expected, atol=1e-6)


def test_balanced_losses_and_their_gradient_equal_the_release():
    golden = load_npz("cosnet", "ops")
    maps, truth = (jnp.asarray(golden[f"loss_{name}"])[:, 0] for name in ("pred", "label"))
    counted = jnp.ones(truth.shape, bool)

    def loss(maps, l1=0.8):
        logits = jnp.log(maps) - jnp.log1p(-maps)
        return balanced_binary_losses(logits, truth > 0, counted, l1).mean()

    np.testing.assert_allclose(loss(maps), golden["loss_total"], rtol=1e-5)
    np.testing.assert_allclose(loss(maps, 0.0), golden["loss_wbce"], rtol=1e-5)
    gradient, expected = jax.grad(loss)(maps), golden["loss_grad"][:, 0]
    np.testing.assert_allclose(gradient, expected, rtol=1e-3, atol=1e-5 * np.abs(expected).max())


def test_what_is_unknown_has_no_part_in_balanced_losses():
    logits = jnp.asarray(np.random.default_rng(0).normal(size=(2, 4, 6)), jnp.float32)
    truth = jnp.zeros((2, 4, 6), bool).at[:, 1:3, 2:5].set(True)
    counted = jnp.ones((2, 4, 6), bool).at[:, 3].set(False)
    found = balanced_binary_losses(logits, truth, counted)
    expected = balanced_binary_losses(logits[:, :3], truth[:, :3], counted[:, :3])
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    nothing = balanced_binary_losses(logits, jnp.zeros_like(truth), counted)
    assert np.isfinite(nothing).all() and (nothing > 0).all()
