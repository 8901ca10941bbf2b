"""The network of STM: two encoders with key and value heads, and the decoder.

Oh, Lee, Xu, Kim, "Video Object Segmentation using Space-Time Memory Networks", ICCV 2019, sections
3.1-3.3; released code: seoungwugoh/STM, model.py. Names follow the release: r2, r3, r4 are the
backbone's maps at stride 4, 8, 16.

Nothing that objects share is computed per object: the frame's part of the memory encoder's first
convolution, the query value's part of the decoder's, and the skip connections of the decoder.

Glossary: B videos, N objects, H W frame size, h w the stride-16 grid.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from vos_jax.nn.mobilenet_v2 import MobileNetV2
from vos_jax.nn.remat import block
from vos_jax.nn.resnet import ResNet
from vos_jax.ops.resize import double

RESNETS = {"resnet18": 18, "resnet50": 50}
BACKBONES = (*RESNETS, "mobilenet_v2")
_he_init = nn.initializers.he_normal()


def build_backbone(kind: str, width: float, norm_eval: bool, dtype: Any) -> nn.Module:
    """The backbone up to stride 16; width multiplies its channels."""
    shared = dict(norm_eval=norm_eval, dtype=dtype, name="backbone")
    if kind in RESNETS:
        return ResNet(depth=RESNETS[kind], layers=3, width=width, **shared)
    return MobileNetV2(output_stride=16, width=width, **shared)


class KeyValue(nn.Module):
    """Key and value heads on r4: 3x3 convolutions."""

    key_dim: int
    value_dim: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, r4: jax.Array) -> tuple[jax.Array, jax.Array]:
        """[B, h, w, channels] -> [B, h, w, key_dim], [B, h, w, value_dim]."""
        key = conv3(self.key_dim, self.dtype, "key")
        value = conv3(self.value_dim, self.dtype, "value")
        return key(r4), value(r4)


class QueryEncoder(nn.Module):
    """Encodes the frame to segment. norm_eval: the norms keep their running statistics."""

    backbone: str
    width: float
    norm_eval: bool
    key_dim: int
    value_dim: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, frame: jax.Array) -> tuple[jax.Array, ...]:
        """Normalised frames [B, H, W, 3] -> key and value [B, h, w, C], r3, r2."""
        backbone = build_backbone(self.backbone, self.width, self.norm_eval, self.dtype)
        r2, r3, r4 = backbone(frame, train=not self.norm_eval)
        return *KeyValue(self.key_dim, self.value_dim, self.dtype, name="heads")(r4), r3, r2


class MemoryEncoder(nn.Module):
    """Encodes a frame together with one object's mask and those of the others.

    The masks enter as further planes of the first convolution, by the kernels `mask` (the object's
    own) and `others` (the sum of all others, at most 1).
    """

    backbone: str
    width: float
    norm_eval: bool
    key_dim: int
    value_dim: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, frame: jax.Array, masks: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Normalised frames [B, H, W, 3], masks [B, N, H, W] -> keys, values [B, N, h, w, C]."""
        batch, objects, height, width = masks.shape
        # summed directly (not total minus own), so that it is exactly 0 where no other object is
        others = jnp.einsum(
            "nm,bmhw->bnhw", 1 - jnp.eye(objects), masks, precision=lax.Precision.HIGHEST
        )
        planes = jnp.stack([masks, jnp.minimum(others, 1)], axis=-1)
        backbone = build_backbone(self.backbone, self.width, self.norm_eval, self.dtype)
        own = self._convolve(planes.reshape(-1, height, width, 2), *backbone.stem_kernel)
        shared = jnp.repeat(backbone.stem(frame), objects, axis=0)
        *_, r4 = backbone.body(shared + own, train=not self.norm_eval)
        heads = KeyValue(self.key_dim, self.value_dim, self.dtype, name="heads")
        return tuple(x.reshape(batch, objects, *x.shape[1:]) for x in heads(r4))

    def _convolve(self, planes: jax.Array, size: int, features: int) -> jax.Array:
        """The share of own and other masks [B * N, H, W, 2] in the backbone's first convolution."""
        # like torchvision's own kernels there: a fresh one leaves the frame recognisable
        begin = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
        kernels = [
            self.param(name, begin, (size, size, 1, features)) for name in ("mask", "others")
        ]
        return lax.conv_general_dilated(
            planes.astype(self.dtype),
            jnp.concatenate(kernels, axis=2).astype(self.dtype),
            (2, 2),
            [(size // 2, size // 2)] * 2,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )


class Decoder(nn.Module):
    """From what was read to two logits per pixel of stride 4 (background, object)."""

    features: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, read: jax.Array, value: jax.Array, r3: jax.Array, r2: jax.Array
    ) -> jax.Array:
        """read [B, N, h, w, D], value [B, h, w, D], r3, r2 -> float32 [B, N, H / 4, W / 4, 2]."""
        batch, objects = read.shape[:2]
        x = SharedConv(self.features, self.dtype, name="conv_fm")(read, value)
        x = block(ResBlock)(self.features, self.dtype, name="res_mm")(x)
        x = block(Refine)(self.features, self.dtype, name="rf3")(r3, x)
        x = block(Refine)(self.features, self.dtype, name="rf2")(r2, x)
        # small at first: a fresh network is undecided
        begin = nn.initializers.variance_scaling(1e-2, "fan_in", "normal")
        pred2 = nn.Conv(2, (3, 3), padding=1, kernel_init=begin, name="pred2")
        logits = pred2(nn.relu(x).astype(jnp.float32))
        return logits.reshape(batch, objects, *logits.shape[1:])


class SharedConv(nn.Module):
    """3x3 convolution of [read, value] along the channels, where objects share the value.

    A convolution is a sum over input channels, so the value's part is computed once.
    """

    features: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, read: jax.Array, value: jax.Array) -> jax.Array:
        """read [B, N, h, w, D], value [B, h, w, E] -> [B * N, h, w, features]."""
        batch, objects, height, width, channels = read.shape
        shape = (3, 3, channels + value.shape[-1], self.features)
        kernel = self.param("kernel", _he_init, shape).astype(self.dtype)
        bias = self.param("bias", nn.initializers.zeros, shape[-1:]).astype(self.dtype)

        def conv(x, kernel):
            return lax.conv_general_dilated(
                x.astype(self.dtype),
                kernel,
                (1, 1),
                "SAME",
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
            )

        shared = conv(value, kernel[:, :, channels:]) + bias
        own = conv(read.reshape(-1, *read.shape[2:]), kernel[:, :, :channels])
        own = own.reshape(batch, objects, *own.shape[1:]) + shared[:, None]
        return own.reshape(-1, *own.shape[2:])


class ResBlock(nn.Module):
    """x plus two 3x3 convolutions of it, each after a ReLU."""

    features: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, h, w, features] -> the same."""
        y = conv3(self.features, self.dtype, "conv1")(nn.relu(x))
        return x + conv3(self.features, self.dtype, "conv2")(nn.relu(y))


class Refine(nn.Module):
    """Doubles the resolution with the help of a map of the backbone, which all objects share."""

    features: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, skip: jax.Array, x: jax.Array) -> jax.Array:
        """skip [B, 2h, 2w, C], x [B * N, h, w, features] -> [B * N, 2h, 2w, features]."""
        skip = conv3(self.features, self.dtype, "conv_fs")(skip)
        skip = ResBlock(self.features, self.dtype, name="res_fs")(skip)
        x = double(x)
        x = x.reshape(skip.shape[0], -1, *skip.shape[1:]) + skip[:, None]
        return ResBlock(self.features, self.dtype, name="res_mm")(x.reshape(-1, *skip.shape[1:]))


def conv3(features: int, dtype: Any, name: str) -> nn.Conv:
    """3x3 convolution with bias that keeps the size."""
    return nn.Conv(features, (3, 3), padding=1, kernel_init=_he_init, dtype=dtype, name=name)
