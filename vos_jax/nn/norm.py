"""Batch normalisation with fixed or live statistics, and the convolution blocks built on it.

Deviations from flax.linen.BatchNorm: the running variance takes the unbiased batch variance, as
PyTorch's does, and `norm_eval` keeps the running statistics in training too (scale and bias still
train). Glossary: B batch, H W grid, C channels; features are [B, H, W, C].
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vos_jax.ops.convolution import conv_general_dilated

Initializer = Callable[..., jax.Array]


class BatchNorm(nn.Module):
    """Batch normalisation over every axis but the last.

    Parameters scale and bias, batch_stats mean and var, all [C] float32 whatever `dtype` is.
    `momentum` is the share of the old running statistics that stays (PyTorch's 1 - momentum).
    norm_eval: always the running statistics. Live (otherwise) with train=True: the statistics of
    the batch, and the running ones move if "batch_stats" is mutable. Under jit with a batch
    sharded over devices these are the statistics of the global batch, not per device: a recipe
    tuned for per-device statistics sees a larger effective batch.
    """

    epsilon: float = 1e-5
    momentum: float = 0.9
    norm_eval: bool = False
    dtype: Any = jnp.float32
    scale_init: Initializer = nn.initializers.ones

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Normalises x [..., C]; the result has `dtype`.

        ValueError where live statistics would come from a single value per channel.
        """
        channels = x.shape[-1]
        scale = self.param("scale", self.scale_init, (channels,), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (channels,), jnp.float32)
        mean = self.variable("batch_stats", "mean", jnp.zeros, (channels,), jnp.float32)
        var = self.variable("batch_stats", "var", jnp.ones, (channels,), jnp.float32)

        if self.norm_eval or not train:
            used_mean, used_var = mean.value, var.value
        else:
            used_mean, used_var, unbiased = self._batch_statistics(x)
            if self.is_mutable_collection("batch_stats") and not self.is_initializing():
                keep = self.momentum
                mean.value = keep * mean.value + (1 - keep) * used_mean
                var.value = keep * var.value + (1 - keep) * unbiased
        gain = scale * jax.lax.rsqrt(used_var + self.epsilon)
        # One multiplication and one addition per value; float32 until the last cast.
        return (x * gain + (bias - used_mean * gain)).astype(self.dtype)

    def _batch_statistics(self, x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Mean, variance and unbiased variance of x over all axes but the last, float32."""
        count = x.size // x.shape[-1]
        if count < 2:
            raise ValueError(
                f"BatchNorm {'/'.join(self.path)}: live statistics need more than one value per "
                f"channel, found {count} (input shape {x.shape}); use a larger batch or "
                "norm_eval=True"
            )
        x = x.astype(jnp.float32)
        axes = tuple(range(x.ndim - 1))
        mean, var = jnp.mean(x, axes), jnp.var(x, axes)
        return mean, var, var * (count / (count - 1))


class ConvNorm(nn.Module):
    """Convolution, without bias unless `use_bias`, BatchNorm, optional activation.

    The padding is symmetric and explicit, by default dilation * (kernel - 1) / 2 on each side, also
    where strides > 1: the output has ceil(n / strides) rows and sampling starts at row 0 (never
    TensorFlow's asymmetric SAME). groups = C makes it depthwise, kernel [kh, kw, 1, C].
    Parameters: conv/kernel (HWIO), norm/{scale, bias}; batch_stats norm/{mean, var}.
    """

    features: int
    kernel: int = 1
    strides: int = 1
    dilation: int = 1
    groups: int = 1
    padding: int | None = None
    use_bias: bool = False
    activation: Callable[[jax.Array], jax.Array] | None = None
    epsilon: float = 1e-5
    momentum: float = 0.9
    norm_eval: bool = False
    kernel_init: Initializer = nn.initializers.lecun_normal()
    scale_init: Initializer = nn.initializers.ones
    dtype: Any = jnp.float32

    def setup(self):
        same = self.dilation * (self.kernel - 1) // 2
        self.conv = nn.Conv(
            self.features,
            (self.kernel, self.kernel),
            strides=self.strides,
            padding=same if self.padding is None else self.padding,
            kernel_dilation=self.dilation,
            feature_group_count=self.groups,
            use_bias=self.use_bias,
            kernel_init=self.kernel_init,
            dtype=self.dtype,
            conv_general_dilated=conv_general_dilated,
        )
        self.norm = BatchNorm(
            self.epsilon, self.momentum, self.norm_eval, self.dtype, self.scale_init
        )

    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """x [B, H, W, C] -> [B, ceil(H / strides), ceil(W / strides), features]."""
        return self.finish(self.convolve(x), train)

    def convolve(self, x: jax.Array) -> jax.Array:
        """The convolution alone."""
        return self.conv(x)

    def finish(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Norm and activation of what `convolve` gave."""
        x = self.norm(x, train)
        return x if self.activation is None else self.activation(x)


class SeparableConvNorm(nn.Module):
    """Depthwise ConvNorm, then a 1x1 ConvNorm to `features`; the activation follows both.

    strides and dilation belong to the depthwise part. Parameters: depthwise/..., pointwise/...
    """

    features: int
    kernel: int = 3
    strides: int = 1
    dilation: int = 1
    activation: Callable[[jax.Array], jax.Array] | None = None
    epsilon: float = 1e-5
    momentum: float = 0.9
    norm_eval: bool = False
    depthwise_init: Initializer = nn.initializers.lecun_normal()
    pointwise_init: Initializer = nn.initializers.lecun_normal()
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """x [B, H, W, C] -> [B, ceil(H / strides), ceil(W / strides), features]."""
        shared = dict(
            activation=self.activation,
            epsilon=self.epsilon,
            momentum=self.momentum,
            norm_eval=self.norm_eval,
            dtype=self.dtype,
        )
        channels = x.shape[-1]
        x = ConvNorm(
            channels,
            self.kernel,
            self.strides,
            self.dilation,
            groups=channels,
            kernel_init=self.depthwise_init,
            name="depthwise",
            **shared,
        )(x, train)
        pointwise = ConvNorm(
            self.features, kernel_init=self.pointwise_init, name="pointwise", **shared
        )
        return pointwise(x, train)
