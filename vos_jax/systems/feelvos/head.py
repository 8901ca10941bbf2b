"""FEELVOS's dynamic segmentation head, its separable convolutions, and how embeddings begin.

Paper section 3.4; released code: tensorflow/models, research/feelvos (model.py, common.py).
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vos_jax.nn.remat import block
from vos_jax.ops.convolution import conv_general_dilated


class Head(nn.Module):
    """Dynamic segmentation head: the same small network for every label (paper section 3.4).

    The features are the same for all labels, so their part of the first layer is computed once and
    added to the part of each label's cues: exact, because a depthwise convolution acts per channel
    and a 1x1 convolution is a sum.
    """

    features: int
    cues: int

    def setup(self):
        self.layer0 = SeparableConv(self.features + self.cues, self.features, 7)
        for name in ("layer1", "layer2", "layer3"):
            setattr(self, name, block(SeparableConv)(self.features, self.features, 7))
        self.logits = nn.Conv(
            1,
            (1, 1),
            kernel_init=nn.initializers.truncated_normal(0.01),
            conv_general_dilated=conv_general_dilated,
        )

    def __call__(self, shared: jax.Array, cues: jax.Array) -> jax.Array:
        """Logits [B, L, h, w] from features [B, h, w, features] and cues [B, L, h, w, cues]."""
        batch, labels, height, width, _ = cues.shape
        cues = cues.astype(shared.dtype).reshape(-1, height, width, self.cues)
        per_label = self.layer0.part(cues, self.features)
        per_label = per_label.reshape(batch, labels, height, width, self.features)
        x = per_label + self.layer0.part(shared, 0)[:, None]
        x = nn.relu(x + self.layer0.pointwise.bias.astype(x.dtype))
        x = x.reshape(-1, height, width, self.features)
        for layer in (self.layer1, self.layer2, self.layer3):
            x = layer(x)
        return self.logits(x.astype(jnp.float32)).reshape(batch, labels, height, width)


class SeparableConv(nn.Module):
    """Depthwise convolution, ReLU, 1x1 convolution, ReLU; biases, no normalisation."""

    inputs: int
    outputs: int
    size: int
    depthwise_init: Any = nn.initializers.truncated_normal(0.33)
    pointwise_init: Any = nn.initializers.truncated_normal(0.06)

    def setup(self):
        self.depthwise = Affine((self.size, self.size, 1, self.inputs), self.depthwise_init)
        self.pointwise = Affine((1, 1, self.inputs, self.outputs), self.pointwise_init)

    def part(self, x: jax.Array, first: int) -> jax.Array:
        """Share of the input channels from `first` on, before the last bias and ReLU."""
        channels = slice(first, first + x.shape[-1])
        kernel, bias = self.depthwise.kernel[..., channels], self.depthwise.bias[channels]
        x = nn.relu(_conv(x, kernel, groups=x.shape[-1]) + bias.astype(x.dtype))
        return _conv(x, self.pointwise.kernel[:, :, channels])

    def __call__(self, x: jax.Array) -> jax.Array:
        return nn.relu(self.part(x, 0) + self.pointwise.bias.astype(x.dtype))


class Affine(nn.Module):
    """A kernel (HWIO) and a bias, named as in nn.Conv."""

    shape: tuple[int, ...]
    init: Any

    def setup(self):
        self.kernel = self.param("kernel", self.init, self.shape)
        self.bias = self.param("bias", nn.initializers.zeros_init(), self.shape[-1:])


def release_embedding(rng: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32):
    """Identity in the central tap plus truncated normal noise of 0.03, the release's start.

    On a depthwise kernel [kh, kw, 1, C] the release's identity reaches channel 0 alone (its last
    axis has length 1 there), and so it does here: embeddings start near zero.
    """
    noise = nn.initializers.truncated_normal(0.03)(rng, shape, dtype)
    return noise.at[shape[0] // 2, shape[1] // 2].add(jnp.eye(*shape[2:], dtype=dtype))


def identity_embedding(rng: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32):
    """Half the identity for every channel plus noise: embeddings start as mixed features.

    Their distances tell pixels apart from the first step on, which short runs need.
    """
    depthwise = shape[2] == 1
    noise = nn.initializers.truncated_normal(0.03 if depthwise else 0.1)(rng, shape, dtype)
    identity = 0.5 if depthwise else 0.5 * jnp.eye(*shape[2:], dtype=dtype)
    return noise.at[shape[0] // 2, shape[1] // 2].add(identity)


EMBEDDING_INIT = {"release": release_embedding, "identity": identity_embedding}


def _conv(x: jax.Array, kernel: jax.Array, groups: int = 1) -> jax.Array:
    return conv_general_dilated(
        x,
        kernel.astype(x.dtype),
        (1, 1),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )
