"""The mask propagation branch of MaskProp: masks of one frame, carried to the frames around it.

Bertasius and Torresani, CVPR 2020, section 3.3. Instances i have features f_i = f M_i of their
frame. A network looks at the difference of two frames' features and gives one field of offsets,
shared by all instances; a deformable convolution with it makes g_i, the instance's features in the
other frame. They are added to what that frame shows, phi_i = g_i + f', which "reinforces" both
where they agree; a 1x1 predictor makes a logit of phi_i, the instances compete, and an attention
map of f' alone removes what belongs to no instance.

No code was released; the paper leaves open, and is answered here by
    features      the maps of the pyramid, brought to one stride and summed, reduced to `channels`
                  by a 1x1 convolution. The paper propagates on three levels with offsets of their
                  own and sums then; with offsets in common both are the same, and a frame keeps one
                  map instead of three.
    offsets       `dilations` residual blocks (1x1 shortcut where channels change; 3x3, ReLU, 3x3),
                  one for each dilation of their first convolution, then a 3x3 convolution that
                  begins at zero: training starts with every tap at its own place. On a grid that is
                  coarser by `offset_stride`, if wanted.
    convolution   begins as the identity of its centre tap and little noise; the same for every pair
                  of frames, forward and backward.
    predictor     "linear" as published; with "relu" it sees relu(phi), so that f' can decide where
                  an instance goes.
    softmax_over  "instances" as published. There, what all instances share cancels: with a linear
                  predictor f' has no say, and a single instance has the attention as its mask.
                  "background", the default, adds a column with logit 0.
    attention     3x3 and a sigmoid (the 1x1 of some accounts: `attention_kernel`), without a loss
                  of its own.

With the linear predictor no features of instances are made (see ops/mask_propagation.py), and one
instance more costs 36 products a cell. `instance_chunk` instances are carried at a time.

Glossary: B videos, K other frames, N instances, h w the grid, C channels, S taps of the kernel.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vos_jax.ops.convolution import conv_general_dilated
from vos_jax.ops.mask_propagation import (
    SOFTMAX_OVER,
    instance_probabilities,
    propagate,
    propagate_features,
)
from vos_jax.ops.soft_iou import soft_iou

PREDICTORS = ("linear", "relu")
_he_init = nn.initializers.variance_scaling(2.0, "fan_in", "normal")


class PropagationBranch(nn.Module):
    """Carries masks from a frame to others; fields as in the module's docstring."""

    channels: int = 128
    kernel: int = 3
    attention_kernel: int = 3
    predictor: str = "linear"  # or "relu"
    softmax_over: str = "background"  # or "instances"
    dilations: tuple[int, ...] = (1,)
    offset_channels: int = 128
    offset_stride: int = 1
    instance_chunk: int = 16
    dtype: Any = jnp.float32  # of convolutions; what is propagated is float32

    def setup(self):
        known = {"predictor": PREDICTORS, "softmax_over": SOFTMAX_OVER}
        for field, choices in known.items():
            if getattr(self, field) not in choices:
                raise ValueError(
                    f"config.model.{field}: expected one of {choices}, "
                    f"found {getattr(self, field)!r}"
                )
        self.reduction = _conv(self.channels, 1, dtype=self.dtype)
        self.blocks = [
            ResidualBlock(self.offset_channels, dilation, self.dtype) for dilation in self.dilations
        ]
        self.last = _conv(2 * self.kernel**2, 3, kernel_init=nn.initializers.zeros)
        shape = (self.kernel, self.kernel, self.channels, self.channels)
        self.weight = self.param("weight", _identity_init, shape)
        self.bias = self.param("bias", nn.initializers.zeros, (self.channels,))
        self.w = self.param("w", nn.initializers.normal(0.1), (self.channels,))
        self.b = self.param("b", nn.initializers.constant(-1.0), ())  # most cells are background
        self.attention_map = _conv(1, self.attention_kernel)

    def reduce(self, levels: tuple[jax.Array, ...], grid: tuple[int, int]) -> jax.Array:
        """Features float32 [B, h, w, C] of pyramid maps [B, h_l, w_l, D] at sizes 2^l h, h / 2^l.

        Finer maps are averaged, coarser ones interpolated.
        """
        total = 0.0
        for level in levels:
            factor = level.shape[1] // grid[0]
            if factor > 1:
                level = nn.avg_pool(level, (factor, factor), (factor, factor))
            if level.shape[1:3] != tuple(grid):
                shape = (level.shape[0], *grid, level.shape[3])
                level = jax.image.resize(level, shape, "bilinear")
            total += level.astype(jnp.float32)
        return self.reduction(total).astype(jnp.float32)

    def offsets(self, features: jax.Array, others: jax.Array) -> jax.Array:
        """Where each tap of a cell of the other frames reads in this one, in cells.

        features [B, h, w, C], others [B, K, h, w, C] -> float32 [B, K, h, w, 2 S], (dy, dx) of one
        tap after the other.
        """
        x = (features[:, None] - others).reshape(-1, *features.shape[1:])
        s = self.offset_stride
        if s > 1:
            if any(side % s for side in features.shape[1:3]):
                raise ValueError(
                    f"config.model.offset_stride: expected a divisor of the grid "
                    f"{features.shape[1:3]} (height, width), found {s}"
                )
            x = nn.avg_pool(x, (s, s), (s, s))
        x = x.astype(self.dtype)
        for block in self.blocks:
            x = block(x)
        x = self.last(x.astype(jnp.float32)) * s
        x = jnp.repeat(jnp.repeat(x, s, axis=1), s, axis=2)
        return x.reshape(*others.shape[:4], -1)

    def attention(self, others: jax.Array) -> jax.Array:
        """Of frames [..., h, w, C]: whether a cell is of any instance, [..., h, w] in 0..1."""
        x = self.attention_map(others.reshape(-1, *others.shape[-3:]))
        return nn.sigmoid(x[..., 0]).reshape(others.shape[:-1])

    def logits(
        self, features: jax.Array, masks: jax.Array, others: jax.Array, offsets: jax.Array
    ) -> jax.Array:
        """Of each instance in each other frame, float32 [B, K, N, h, w]; see `__call__`."""
        arrays = self.weight, self.bias, self.w, self.b

        def of_chunk(features, offsets, other, masks):
            if self.predictor == "linear":
                return propagate(features, masks, offsets, *arrays, other=other)
            phi = propagate_features(features, masks, offsets, *arrays[:2]) + other
            highest = jax.lax.Precision.HIGHEST
            return jnp.einsum("nhwc,c->nhw", nn.relu(phi), self.w, precision=highest) + self.b

        def of_video(features, masks, others, offsets):
            def of_masks(masks):
                one = partial(of_chunk, features, masks=masks)
                return jax.vmap(lambda o, f: one(o, f))(offsets, others)

            return _in_chunks(of_masks, masks, self.instance_chunk)

        return jax.vmap(of_video)(features, masks, others, offsets)

    def propagated(self, features: jax.Array, masks: jax.Array, others: jax.Array) -> jax.Array:
        """The features g themselves (the paper's figure 5), float32 [B, K, N, h, w, C]."""
        offsets = self.offsets(features, others)
        of_frame = jax.vmap(propagate_features, (None, None, 0, None, None))
        of_video = jax.vmap(of_frame, (0, 0, 0, None, None))
        return of_video(features, masks, offsets, self.weight, self.bias)

    def probabilities(self, logits: jax.Array, attention: jax.Array, valid: jax.Array) -> jax.Array:
        """What the instances' logits [B, K, N, h, w] and attention [B, K, h, w] say together."""
        one = partial(instance_probabilities, softmax_over=self.softmax_over)
        return jax.vmap(jax.vmap(one, (0, 0, None)))(logits, attention, valid)

    def __call__(
        self, features: jax.Array, masks: jax.Array, valid: jax.Array, others: jax.Array
    ) -> jax.Array:
        """Masks of a frame's instances in other frames.

        Args:
            features: [B, h, w, C], of `reduce`.
            masks: [B, N, h, w] in 0..1, each cell's share.
            valid: bool [B, N]; the masks of others are 0 and change nothing.
            others: [B, K, h, w, C].

        Returns:
            float32 [B, K, N, h, w] in 0..1.
        """
        logits = self.logits(features, masks, others, self.offsets(features, others))
        return self.probabilities(logits, self.attention(others), valid)


class ResidualBlock(nn.Module):
    """relu(shortcut(x) + 3x3(relu(3x3(x)))), the first of them dilated."""

    channels: int
    dilation: int = 1
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, h, w, C] -> [B, h, w, channels]."""
        conv = partial(_conv, self.channels, dtype=self.dtype)
        y = nn.relu(conv(3, dilation=self.dilation, name="conv1")(x))
        y = conv(3, name="conv2")(y)
        if x.shape[-1] != self.channels:
            x = conv(1, name="shortcut")(x)
        return nn.relu(x + y)


def propagation_losses(found: jax.Array, truth: jax.Array, valid: jax.Array) -> jax.Array:
    """1 - sIoU of each video [B], a mean over the instances and frames of the whole batch.

    Args:
        found: [B, K, N, h, w] in 0..1.
        truth: bool [B, K, N, h, w].
        valid: bool [B, N].

    An instance counts in the frames that show it: where it is absent, sIoU is 0 whatever is found,
    and has no gradient. What is found there in its place is found of other instances, or held back
    by the attention. Videos are scaled to the mean over the batch, as all losses are.
    """
    counted = truth.any(axis=(3, 4)) & valid[:, None]
    losses = (1 - soft_iou(found, truth)) * counted
    return losses.sum(axis=(1, 2)) * len(valid) / jnp.maximum(counted.sum(), 1)


def _in_chunks(function: Callable[[jax.Array], jax.Array], masks: jax.Array, chunk: int):
    """function(masks [N, h, w]) -> [K, N, h, w], of `chunk` instances at a time."""
    count = len(masks)
    if count <= chunk:
        return function(masks)
    masks = jnp.pad(masks, ((0, -count % chunk), (0, 0), (0, 0)))
    found = jax.lax.map(function, masks.reshape(-1, chunk, *masks.shape[1:]))
    found = jnp.moveaxis(found, 0, 1)
    return found.reshape(found.shape[0], -1, *found.shape[3:])[:, :count]


def _identity_init(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """A kernel [k, k, C, C] that passes its centre on, with little noise."""
    centre = shape[0] // 2
    noise = 0.01 * jax.random.normal(key, shape)
    return noise.at[centre, centre].add(jnp.eye(shape[2]))


def _conv(channels: int, kernel: int, dilation: int = 1, **options: Any) -> nn.Conv:
    """A convolution that keeps the size."""
    return nn.Conv(
        channels,
        (kernel, kernel),
        kernel_dilation=dilation,
        conv_general_dilated=conv_general_dilated,
        **{"kernel_init": _he_init, **options},
    )
