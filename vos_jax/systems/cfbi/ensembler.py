"""The collaborative ensembler: the head of CFBI and CFBI+.

Yang, Wei, Yang, ECCV 2020, section 3.4, and TPAMI 2021, section 3.6; released code: z-x-yang/CFBI,
networks/cfbi/ensembler.py. Three stages of gated bottlenecks at stride 4, 8 and 16, an ASPP and a
decoder segment every label with the same weights; a guidance vector of the label gates each of them
(instance-level attention) and generates the last layer's weights. CFBI gives it what it sees at
stride 4, CFBI+ also at 8 and 16.

Glossary: M labels of all videos, hs ws the grid at stride s, D length of the guidance vector.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from vos_jax.nn.gated import GCT, VectorGate, gated
from vos_jax.nn.group_norm import ConvGroupNorm, group_norm, kernel_init
from vos_jax.nn.merging_conv import MergingConv
from vos_jax.nn.remat import block
from vos_jax.ops.convolution import conv_general_dilated

# of the bottlenecks of each stage; the first one of stages 2 and 3 has stride 2
DILATIONS = ((1, 2), (1, 2, 4), (1, 2, 4))
RATES = (6, 12, 18)  # of the 3x3 branches of the ASPP


class Bottleneck(nn.Module):
    """The label's gate, then GCT, 1x1, 3x3, 1x1 with GroupNorm; the shortcut goes past the GCT."""

    features: int
    stride: int = 1
    dilation: int = 1
    groups: int = 32
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, gate: jax.Array) -> jax.Array:
        """x [M, h, w, C], gate [M, C] -> [M, ceil(h / stride), ceil(w / stride), features]."""
        x = gated(x, gate)
        shared = dict(groups=self.groups, dtype=self.dtype)
        inner = dict(features=self.features // 4, activation=nn.relu, **shared)
        y = ConvGroupNorm(**inner, name="conv1")(x, GCT(name="gct")(x))
        y = ConvGroupNorm(
            kernel=3, strides=self.stride, dilation=self.dilation, **inner, name="conv2"
        )(y)
        y = ConvGroupNorm(self.features, **shared, name="conv3")(y)
        if x.shape[-1] != self.features or self.stride != 1:
            shortcut = ConvGroupNorm(
                self.features, strides=self.stride, **shared, name="downsample"
            )
            x = shortcut(x)
        return nn.relu(x + y)


class GatedASPP(nn.Module):
    """The label's gate, then an atrous pyramid whose branches have half of `features` each."""

    features: int
    groups: int = 32
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, gate: jax.Array) -> jax.Array:
        """x [M, h, w, C], gate [M, C] -> [M, h, w, features]."""
        x = gated(x, gate)
        shared = dict(groups=self.groups, activation=nn.relu, dtype=self.dtype)
        branches = []
        for i, rate in enumerate((0, *RATES)):
            kernel = dict(kernel=3, dilation=rate) if rate else {}
            conv = ConvGroupNorm(self.features // 2, **kernel, **shared, name=f"branch{i}")
            branches.append(conv(x, GCT(name=f"gct{i}")(x)))
        pooled = jnp.mean(x, axis=(1, 2), keepdims=True, dtype=jnp.float32).astype(x.dtype)
        pooled = nn.Conv(
            self.features // 2,
            (1, 1),
            use_bias=False,
            dtype=self.dtype,
            conv_general_dilated=conv_general_dilated,
            name="pooling",
        )(pooled)
        branches.append(jnp.broadcast_to(nn.relu(pooled), branches[0].shape))
        x = jnp.concatenate(branches, axis=-1)
        return ConvGroupNorm(self.features, **shared, name="projection")(x, GCT(name="gct")(x))


class MergingConvGroupNorm(nn.Module):
    """The label's gate, then 3x3 MergingConv, GroupNorm, ReLU. Parameters as in ConvGroupNorm."""

    features: int
    groups: int = 32
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, coarse: jax.Array, fine: jax.Array, gate: jax.Array) -> jax.Array:
        """coarse [M, h, w, Ca], fine [M, H, W, Cb], gate [M, Ca + Cb] -> [M, H, W, features]."""
        split = coarse.shape[-1]
        coarse, fine = gated(coarse, gate[:, :split]), gated(fine, gate[:, split:])
        conv = MergingConv(self.features, 3, "bicubic", kernel_init, self.dtype, name="conv")
        return nn.relu(group_norm(self.groups, "norm", self.dtype)(conv(coarse, fine)))


class Ensembler(nn.Module):
    """The head. width is that of the first stage; everything else follows from it.

    Parameters: stage{s}_gate{i}, stage{s}_layer{i}, aspp_gate, aspp, skip_gct, skip_conv, gate1,
    conv1, gate2, conv2, and the generators `foreground` and `background` of the last weights.
    """

    width: int = 256
    groups: int = 32
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, inputs: tuple[jax.Array, ...], guidance: jax.Array, low_level: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """How much each pixel is the label's, and how much it is not.

        Args:
            inputs: [M, hs, ws, C] at stride 4, or at strides 4, 8 and 16.
            guidance: [M, D] float32.
            low_level: [B, h4, w4, C] of the backbone, shared by the M / B labels of a video.

        Returns:
            Foreground and background logits float32 [M, h4, w4].
        """
        shared = dict(groups=self.groups, dtype=self.dtype)

        def gate(name, *maps):
            return VectorGate(sum(x.shape[-1] for x in maps), name=name)(guidance)

        x, skip = inputs[0], None
        for stage, dilations in enumerate(DILATIONS, start=1):
            features = self.width * (1 if stage == 1 else 2)
            for i, dilation in enumerate(dilations, start=1):
                if stage > 1 and i == 2 and len(inputs) > 1:
                    x = jnp.concatenate([x, inputs[stage - 1]], axis=-1)
                stride = 2 if stage > 1 and i == 1 else 1
                layer = block(Bottleneck)(
                    features, stride, dilation, **shared, name=f"stage{stage}_layer{i}"
                )
                x = layer(x, gate(f"stage{stage}_gate{i}", x))
            skip = x if stage == 1 else skip
        x = block(GatedASPP)(self.width, **shared, name="aspp")(x, gate("aspp_gate", x))

        low_level = jnp.repeat(low_level, skip.shape[0] // low_level.shape[0], axis=0)
        skip = jnp.concatenate([low_level.astype(skip.dtype), skip], axis=-1)
        skip = block(ConvGroupNorm)(
            self.width // 4,
            groups=self.groups // 2,
            activation=nn.relu,
            dtype=self.dtype,
            name="skip_conv",
        )(skip, block(GCT)(name="skip_gct")(skip))
        half = self.width // 2
        merge = block(MergingConvGroupNorm)(half, **shared, name="conv1")
        x = merge(x, skip, gate("gate1", x, skip))
        conv2 = block(ConvGroupNorm)(half, kernel=3, activation=nn.relu, **shared, name="conv2")
        x = conv2(x, gate("gate2", x)).astype(jnp.float32)
        return tuple(_generated(x, guidance, name) for name in ("foreground", "background"))


def _generated(x: jax.Array, guidance: jax.Array, name: str) -> jax.Array:
    """A 1x1 convolution to one channel whose weights and bias a linear layer makes of the guidance.

    x float32 [M, h, w, C], guidance [M, D] -> float32 [M, h, w]; the layer is called `name`.
    """
    weights = nn.Dense(x.shape[-1] + 1, name=name)(guidance)
    logits = jnp.einsum("mhwc,mc->mhw", x, weights[:, :-1], precision=lax.Precision.HIGHEST)
    return logits + weights[:, -1, None, None]
