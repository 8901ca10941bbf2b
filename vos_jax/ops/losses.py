"""Training losses: hardest pixels (FEELVOS), soft IoU (RIS, RSIS, RVOS), balanced (COSNet); and of
what else is said of an object: its class, its box, whether there is one (RIS, RSIS).

Released code of FEELVOS (Voigtlaender et al., CVPR 2019), where the share of pixels that count
falls linearly from all to 15 % over the first 100 000 steps ("bootstrapping", Wu et al., 2016).
Released code of RSIS (Salvador et al., 2017) and RVOS (Ventura et al., CVPR 2019), whose relaxed
intersection over union is that of RIS (Romera-Paredes and Torr, ECCV 2016).
Released code of COSNet (Lu et al., CVPR 2019), train_iteration_conf.py, calc_loss_BCE.
"""

import jax
import jax.numpy as jnp
import numpy as np

from vos_jax.ops.assignment import intersections

EXCLUDED = -1e30  # logit of a slot that takes no part in the softmax; finite, so gradients are 0


def bootstrapped_cross_entropy(
    logits: jax.Array,
    labels: jax.Array,
    step: jax.Array,
    fraction: float = 0.15,
    mining_steps: int = 100_000,
    valid: jax.Array | None = None,
) -> jax.Array:
    """Mean softmax cross-entropy of the hardest pixels of each video.

    The k hardest pixels are looked at, k = int((r * fraction + 1 - r) * H * W) with
    r = min(1, step / mining_steps), ties in favour of the lower pixel index; ignored pixels have
    loss 0 and are left out of the mean. `step` is traced: one compilation for the whole schedule.

    Args:
        logits: [B, N + 1, H, W] float, at the size of the labels.
        labels: [B, H, W] int; 255, and every value without a valid channel, is ignored.
        step: [] int, the training step.
        fraction: share of pixels looked at from `mining_steps` on, static.
        mining_steps: static; 0 looks at `fraction` from the start.
        valid: [B, N + 1] bool, channels that take part; None: all.

    Returns:
        [B] float32, 0 where no pixel counts.
    """
    if logits.ndim != 4 or labels.shape != (logits.shape[0], *logits.shape[2:]):
        raise ValueError(
            f"bootstrapped_cross_entropy: expected logits [B, N+1, H, W] and labels [B, H, W], "
            f"found {logits.shape} and {labels.shape}; upsample the logits to the label size"
        )
    if not 0 <= fraction <= 1 or mining_steps < 0:
        raise ValueError(
            f"bootstrapped_cross_entropy: fraction must be in 0..1 and mining_steps >= 0, found "
            f"{fraction} and {mining_steps}"
        )
    pixels = logits.shape[2] * logits.shape[3]
    losses, counted = _pixel_losses(logits.astype(jnp.float32), labels, valid)
    schedule = jnp.asarray(_hard_pixels(pixels, fraction, mining_steps))
    k = schedule[jnp.clip(step, 0, mining_steps)]
    selected = _largest(jax.lax.stop_gradient(losses), k) & counted
    total = jnp.sum(jnp.where(selected, losses, 0.0), axis=1)
    return total / jnp.maximum(jnp.sum(selected, axis=1), 1)


def soft_iou_costs(maps: jax.Array, masks: jax.Array) -> jax.Array:
    """1 - soft IoU of every pair of a predicted map s and a mask y.

    <s, y> / (|s| + |y| - <s, y> + 1e-6), sums over pixels: 0 where both agree and hold only zeros
    and ones, 1 where they do not meet, two empty ones included.

    Args:
        maps: [..., M, H, W] in 0..1.
        masks: [..., K, H, W] in 0..1.

    Returns:
        float32 [..., M, K].
    """
    both = intersections(maps, masks)
    return 1 - both / (_sums(maps, masks) - both + 1e-6)


def relaxed_iou_costs(maps: jax.Array, masks: jax.Array) -> jax.Array:
    """1 - <s, y> / (|s| + |y| + <s, y> + 1e-6), otherwise as `soft_iou_costs`.

    The relaxed IoU of RIS in the form that has the product in the sum: it grows as the soft IoU
    does, but to 1/3 only, so that the cost of two that agree is 2/3.
    """
    both = intersections(maps, masks)
    return 1 - both / (_sums(maps, masks) + both + 1e-6)


def class_costs(log_probabilities: jax.Array, classes: jax.Array) -> jax.Array:
    """-log p of the true class: [..., C] and int32 [...] -> float32 [...]."""
    found = log_probabilities.astype(jnp.float32)
    return -jnp.take_along_axis(found, classes[..., None], axis=-1)[..., 0]


def stop_costs(logits: jax.Array, there: jax.Array, balance: float = 0.5) -> jax.Array:
    """Binary cross-entropy of whether there is an object, float32 [...].

    Weighted 1 - balance where there is one and balance where not, as the release of RSIS does.

    Args:
        logits: [...], of there being one.
        there: bool [...].
        balance: 0.5 weighs both alike, by a half.
    """
    wrong = -jax.nn.log_sigmoid(jnp.where(there, logits, -logits).astype(jnp.float32))
    return wrong * jnp.where(there, 1 - balance, balance)


def box_costs(boxes: jax.Array, truths: jax.Array) -> jax.Array:
    """Mean distance of the four numbers of every pair: [..., M, 4], [..., K, 4] -> [..., M, K]."""
    apart = boxes[..., :, None, :] - truths[..., None, :, :]
    return jnp.abs(apart.astype(jnp.float32)).mean(axis=-1)


def _sums(maps, masks):
    """|s| + |y| of every pair, [..., M, K]."""
    first, second = (x.astype(jnp.float32).sum(axis=(-2, -1)) for x in (maps, masks))
    return first[..., :, None] + second[..., None, :]


def balanced_binary_losses(
    logits: jax.Array, foreground: jax.Array, counted: jax.Array, l1: float = 0.8
) -> jax.Array:
    """Binary cross-entropy, times pixels over foreground pixels of the batch, plus l1 * |p - y|.

    One weight for all pixels of the batch, as in the release; the paper's weighs the two classes
    against each other. Without any foreground in the batch the weight is that of one pixel.

    Args:
        logits: [B, H, W] float.
        foreground: [B, H, W] bool.
        counted: [B, H, W] bool, pixels that take part.

    Returns:
        [B] float32, whose mean is the mean over all pixels of the batch that take part.
    """
    logits, truth = logits.astype(jnp.float32), (foreground & counted).astype(jnp.float32)
    count = jnp.maximum(counted.sum(), 1)
    weight = count / jnp.maximum(truth.sum(), 1)
    entropy = jax.nn.softplus(logits) - truth * logits
    each = weight * entropy + l1 * jnp.abs(jax.nn.sigmoid(logits) - truth)
    return (each * counted).sum(axis=(1, 2)) * (len(logits) / count)


def _pixel_losses(logits, labels, valid):
    """Loss [B, H W], 0 where ignored, and whether a pixel counts."""
    channels = jnp.arange(logits.shape[1])[:, None, None]
    target = labels[:, None].astype(jnp.int32) == channels  # [B, N + 1, H, W]
    if valid is not None:
        target &= valid[:, :, None, None]
        logits = jnp.where(valid[:, :, None, None], logits, EXCLUDED)
    counted = jnp.any(target, axis=1)
    loss = jax.nn.logsumexp(logits, axis=1) - jnp.sum(jnp.where(target, logits, 0.0), axis=1)
    loss = jnp.where(counted, loss, 0.0)
    return loss.reshape(loss.shape[0], -1), counted.reshape(loss.shape[0], -1)


def _hard_pixels(pixels, fraction, mining_steps):
    """k at every step 0..mining_steps, int32.

    A table, because truncation needs the float64 of the formula and the device has float32.
    """
    steps = np.arange(mining_steps + 1, dtype=np.float64)
    ratio = steps / mining_steps if mining_steps else np.ones(1)
    return ((ratio * fraction + (1.0 - ratio)) * pixels).astype(np.int32)


def _largest(values, k):
    """Mask of the k largest along axis 1 of [B, P], ties in favour of the lower index, k traced."""
    # The k-th largest value is a threshold; among equals the first ones fill up the k places.
    descending = -jnp.sort(-values, axis=1)
    threshold = jnp.take(descending, jnp.maximum(k - 1, 0), axis=1)[:, None]
    above = values > threshold
    equal = values == threshold
    places = k - jnp.sum(above, axis=1, keepdims=True)
    return above | (equal & (jnp.cumsum(equal, axis=1) <= places))
