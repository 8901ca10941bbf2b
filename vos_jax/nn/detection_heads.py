"""Heads of detectors: what is said of the cells of a pyramid, and of the features of a box.

Ren et al., "Faster R-CNN", NIPS 2015 (RPNHead); Lin et al., CVPR 2017 (BoxHead); He et al., "Mask
R-CNN", ICCV 2017 (MaskHead); Yang, Fan, Xu, "Video Instance Segmentation", ICCV 2019, arXiv
1905.04804 (TrackHead). Initial values are those of torchvision and mmdet.

Features of boxes are [..., p, p, C]; a fully connected layer reads them row by row, then channel by
channel (the releases: channel by channel first, which `official` converts).

Glossary: B images, A anchors of a cell, K classes with the background first, E size of embeddings.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vos_jax.ops.convolution import conv_general_dilated


class RPNHead(nn.Module):
    """Whether there is an object at each anchor, and where; the same for all levels."""

    features: int = 256
    anchors: int = 3
    dtype: Any = jnp.float32

    def setup(self):
        self.conv = _conv(self.features, 3, nn.initializers.normal(0.01), self.dtype)
        self.objectness = _conv(self.anchors, 1, nn.initializers.normal(0.01), self.dtype)
        self.deltas = _conv(4 * self.anchors, 1, nn.initializers.normal(0.01), self.dtype)

    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """x [B, h, w, C] -> logits float32 [B, h w A] and deltas [B, h w A, 4]."""
        x = nn.relu(self.conv(x))
        logits = self.objectness(x).reshape(len(x), -1)
        deltas = self.deltas(x).reshape(len(x), -1, 4)
        return logits.astype(jnp.float32), deltas.astype(jnp.float32)


class BoxHead(nn.Module):
    """What is in a box, and where its border is for each class: two layers, then two outputs."""

    hidden: int
    classes: int  # K
    dtype: Any = jnp.float32

    def setup(self):
        xavier = nn.initializers.xavier_uniform()
        self.fc1 = nn.Dense(self.hidden, kernel_init=xavier, dtype=self.dtype)
        self.fc2 = nn.Dense(self.hidden, kernel_init=xavier, dtype=self.dtype)
        self.logits = _dense(self.classes, 0.01, self.dtype)
        self.deltas = _dense(4 * self.classes, 0.001, self.dtype)

    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """x [..., p, p, C] -> logits float32 [..., K] and deltas [..., K, 4]."""
        x = _flat(x)
        x = nn.relu(self.fc2(nn.relu(self.fc1(x))))
        deltas = self.deltas(x).reshape(*x.shape[:-1], self.classes, 4)
        return self.logits(x).astype(jnp.float32), deltas.astype(jnp.float32)


class MaskHead(nn.Module):
    """A mask for each class: 3x3 convolutions, twice the resolution, one map a class."""

    features: int
    classes: int  # K
    depth: int = 4
    dtype: Any = jnp.float32

    def setup(self):
        he = nn.initializers.kaiming_normal()
        self.convs = [
            _conv(self.features, 3, he, self.dtype, name=f"conv{i}") for i in range(self.depth)
        ]
        self.upsample = Doubling(self.features, self.dtype)
        self.logits = _conv(self.classes, 1, he, self.dtype)

    def __call__(self, x: jax.Array) -> jax.Array:
        """x [N, p, p, C] -> logits float32 [N, 2 p, 2 p, K]."""
        for conv in self.convs:
            x = nn.relu(conv(x))
        return self.logits(nn.relu(self.upsample(x))).astype(jnp.float32)


class Doubling(nn.Module):
    """Transposed 2x2 convolution of stride 2: every cell becomes four, none overlaps.

    That is a matrix product and a change of order; kernel [C, 2, 2, features].
    """

    features: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """x [N, h, w, C] -> [N, 2 h, 2 w, features]."""
        count, height, width, channels = x.shape
        init = nn.initializers.variance_scaling(2.0, "fan_in", "normal", in_axis=0)
        shape = (channels, 2, 2, self.features)
        kernel = self.param("kernel", init, shape).astype(self.dtype)
        bias = self.param("bias", nn.initializers.zeros, (self.features,)).astype(self.dtype)
        four = jnp.dot(x.astype(self.dtype), kernel.reshape(channels, -1))
        four = four.reshape(count, height, width, 2, 2, self.features)
        doubled = four.transpose(0, 1, 3, 2, 4, 5)
        return doubled.reshape(count, 2 * height, 2 * width, self.features) + bias


class TrackHead(nn.Module):
    """The embedding of a box, whose products with others say how alike two objects are.

    ReLU between the layers and not after the last one (mmtracking has one there, too).
    """

    hidden: int
    depth: int = 2
    dtype: Any = jnp.float32

    def setup(self):
        self.layers = [
            _dense(self.hidden, 0.01, self.dtype, name=f"fc{i}") for i in range(1, self.depth + 1)
        ]

    def __call__(self, x: jax.Array) -> jax.Array:
        """x [..., p, p, C] -> float32 [..., E]."""
        x = _flat(x)
        for i, layer in enumerate(self.layers):
            x = layer(nn.relu(x) if i else x)
        return x.astype(jnp.float32)


def _conv(features, side, init, dtype, name=None):
    return nn.Conv(
        features,
        (side, side),
        padding=side // 2,
        kernel_init=init,
        conv_general_dilated=conv_general_dilated,
        dtype=dtype,
        name=name,
    )


def _dense(features, deviation, dtype, name=None):
    init = nn.initializers.normal(deviation)
    return nn.Dense(features, kernel_init=init, dtype=dtype, name=name)


def _flat(x):
    return x.reshape(*x.shape[:-3], -1)
