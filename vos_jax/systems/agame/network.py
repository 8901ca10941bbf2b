"""The network of A-GAME around its appearance model: backbone, propagation, fusion, upsampling.

Johnander et al., CVPR 2019, sections 3.1 and 3.3-3.4; released code: joakimjohnander/agame-vos,
models/agame_model.py. All convolutions have biases and no norm. Names follow the release: s16, s8
and s4 are the backbone's maps at these strides.

What objects share is computed once: a convolution is a sum over input channels, so the first one of
the mask propagation is a sum of what comes from the frame, from the frame in which an object was
given, and from the object's masks in both.

Glossary: B videos, N objects, h w the stride-16 grid.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vos_jax.nn.mobilenet_v2 import MobileNetV2
from vos_jax.nn.resnet import ResNet
from vos_jax.ops.convolution import conv_general_dilated
from vos_jax.ops.resize import double

RESNETS = {"resnet18": 18, "resnet50": 50, "resnet101": 101}
BACKBONES = (*RESNETS, "mobilenet_v2")
DILATIONS = (1, 3, 6)
_he_init = nn.initializers.he_uniform()


class Backbone(nn.Module):
    """Maps s4, s8, s16; the last layer of a ResNet is dilated to stay at stride 16.

    live_from: norms of the layers from this one on are live in training, the others keep their
    running statistics (the stem is layer 0, and MobileNetV2 is all live or not at all).
    """

    kind: str
    width: float
    live_from: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, frames: jax.Array, train: bool = False) -> tuple[jax.Array, ...]:
        """Normalised frames [B, H, W, 3] -> s4, s8, s16."""
        shared = dict(output_stride=16, width=self.width, dtype=self.dtype, name="network")
        if self.kind in RESNETS:
            net = ResNet(
                depth=RESNETS[self.kind], norm_eval=False, live_from=self.live_from, **shared
            )
            s4, s8, _, s16 = net(frames, train)
            return s4, s8, s16
        return MobileNetV2(norm_eval=self.live_from > 0, **shared)(frames, train)


class MaskPropagation(nn.Module):
    """Where an object goes: from its mask in the previous frame and in the one it was given in.

    [s16 now, s16 then, previous mask, mask then] -> 1x1, ReLU -> three dilated 3x3 side by side,
    ReLU -> 3x3, ReLU. Masks have two channels, background and object.
    """

    channels: int
    dtype: Any = jnp.float32

    def setup(self):
        one = dict(use_bias=False, kernel_init=nn.initializers.lecun_uniform())
        self.now = _conv(self.channels, 1, dtype=self.dtype, **one)
        self.then = _conv(self.channels, 1, dtype=self.dtype, **one)
        self.previous = _conv(self.channels, 1, dtype=self.dtype, **one)
        self.given = _conv(self.channels, 1, dtype=self.dtype)
        self.dilated = [
            _conv(self.channels, 3, dilation=d, dtype=self.dtype, name=f"dilated_{d}")
            for d in DILATIONS
        ]
        self.last = _conv(self.channels, 3, dtype=self.dtype)

    def of_frame(self, s16: jax.Array) -> jax.Array:
        """The share of the current frame [B, h, w, channels]."""
        return self.now(s16)

    def of_given(self, s16: jax.Array, masks: jax.Array) -> jax.Array:
        """The share of the frame [B, h, w, C] with given masks [B, N, h, w]: [B, N, h, w, D]."""
        return self.given(_two_channels(masks)) + self.then(s16)[:, None]

    def __call__(self, now: jax.Array, then: jax.Array, previous: jax.Array) -> jax.Array:
        """Both shares and the previous masks [B, N, h, w] -> [B * N, h, w, channels]."""
        x = now[:, None] + then.astype(self.dtype) + self.previous(_two_channels(previous))
        x = nn.relu(x.reshape(-1, *x.shape[2:]))
        x = nn.relu(jnp.concatenate([conv(x) for conv in self.dilated], axis=-1))
        return nn.relu(self.last(x))


class Fusion(nn.Module):
    """What appearance and propagation say together, and a first mask of it at stride 16."""

    channels: int
    fine_channels: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """[M, h, w, C] -> [M, h, w, fine_channels], coarse scores float32 [M, h, w, 2]."""
        x = nn.relu(_conv(self.channels, 3, dtype=self.dtype, name="conv1")(x))
        x = nn.relu(_conv(self.fine_channels, 3, dtype=self.dtype, name="conv2")(x))
        return x, _conv(2, 1, name="predictor")(x.astype(jnp.float32))


class Upsampling(nn.Module):
    """From stride 16 to the final scores at stride 4, with the backbone's finer maps."""

    channels: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, s8: jax.Array, s4: jax.Array) -> jax.Array:
        """x [B * N, h, w, D], s8, s4 [B, .., C], shared by objects -> float32 [B * N, 4h, 4w, 2].

        Background and object.
        """
        for name, skip in (("8", s8), ("4", s4)):
            projected = _conv(self.channels, 1, dtype=self.dtype, name=f"project_{name}")(skip)
            projected = jnp.repeat(nn.relu(projected), len(x) // len(skip), axis=0)
            x = jnp.concatenate([projected, double(x)], axis=-1)
            x = nn.relu(_conv(self.channels, 3, dtype=self.dtype, name=f"blend_{name}")(x))
        return _conv(2, 3, name="predictor")(x.astype(jnp.float32))


def _two_channels(masks: jax.Array) -> jax.Array:
    """[...] -> [..., 2]: background and object."""
    return jnp.stack([1 - masks, masks], axis=-1)


def _conv(channels: int, kernel: int, dilation: int = 1, **options: Any) -> nn.Conv:
    """A convolution that keeps the size."""
    return nn.Conv(
        channels,
        (kernel, kernel),
        padding=dilation * (kernel // 2),
        kernel_dilation=dilation,
        conv_general_dilated=conv_general_dilated,
        **{"kernel_init": _he_init, **options},
    )
