"""MobileNetV2 with torchvision's layer numbering, dilated for dense prediction.

Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", CVPR 2018
(arXiv:1801.04381), table 2. Numbers and names follow torchvision.models.mobilenet_v2:
features_0 is the stem, features_1..17 are the inverted residuals, features_18 the last 1x1.

Deviation: output_stride 16 or 8 replaces the strides beyond it by dilation, as DeepLab does; the
parameter tree stays the same. Glossary: B batch, H W image size.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vos_jax.nn.norm import ConvNorm
from vos_jax.nn.remat import block

EPSILON = 1e-5

# expansion, channels, repeats, stride of the first repeat
_STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
NUM_BLOCKS = sum(repeats for _, _, repeats, _ in _STAGES)
LAST_AT_STRIDE = {2: 1, 4: 3, 8: 6, 16: 13}  # the last layer at each stride


def kernel_init(
    norm_eval: bool, linear: bool = False, residual: bool = False
) -> nn.initializers.Initializer:
    """How the kernel of a convolution with a norm begins; torchvision's way before a live norm.

    A live norm gives its output unit variance whatever the kernel is. One that keeps fresh
    statistics changes nothing, and with torchvision's kernels the network would pass on a millionth
    of its input: so kernels keep the variance themselves (linear: no activation follows), and the
    last one of a residual branch begins at zero, so that sums do not grow.
    """
    if not norm_eval:
        return nn.initializers.variance_scaling(2.0, "fan_out", "normal")
    if residual:
        return nn.initializers.zeros
    return nn.initializers.lecun_normal() if linear else nn.initializers.he_normal()


class InvertedResidual(nn.Module):
    """1x1 expansion, depthwise 3x3, linear 1x1 projection; identity sum where shapes allow it.

    Submodules expand (absent at expansion 1), depthwise, project, each a ConvNorm. pad_first: the
    input is padded before it is expanded, so that the depthwise convolution sees the bias of the
    expansion's norm beyond the border instead of zeros (jfzhang95/pytorch-deeplab-xception, CFBI).
    """

    features: int
    expansion: int
    stride: int = 1
    dilation: int = 1
    residual: bool = False
    pad_first: bool = False
    norm_eval: bool = True
    momentum: float = 0.9
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """x [B, h, w, C] -> [B, ceil(h / stride), ceil(w / stride), features]."""
        shared = dict(
            epsilon=EPSILON,
            momentum=self.momentum,
            norm_eval=self.norm_eval,
            dtype=self.dtype,
        )
        first = dict(activation=nn.relu6, kernel_init=kernel_init(self.norm_eval), **shared)
        hidden = x.shape[-1] * self.expansion
        border = (self.dilation, self.dilation) if self.pad_first else (0, 0)
        y = jnp.pad(x, ((0, 0), border, border, (0, 0)))
        if self.expansion != 1:
            y = ConvNorm(hidden, name="expand", **first)(y, train)
        y = ConvNorm(
            hidden,
            kernel=3,
            strides=self.stride,
            dilation=self.dilation,
            groups=hidden,
            padding=0 if self.pad_first else None,
            name="depthwise",
            **first,
        )(y, train)
        last = kernel_init(self.norm_eval, linear=True, residual=self.residual)
        y = ConvNorm(self.features, kernel_init=last, name="project", **shared)(y, train)
        return x + y if self.residual else y


class MobileNetV2(nn.Module):
    """The backbone. width multiplies every channel count, rounded to multiples of 8.

    output_stride: 8, 16 or 32. finer: the strides of the maps that are returned before the last
    one. last_conv adds features_18 (1280 channels), which the ImageNet classifier reads and dense
    prediction does not. pad_first: see InvertedResidual.

    `stem` is the first convolution, `body` what comes after it.
    """

    output_stride: int = 16
    width: float = 1.0
    finer: tuple[int, ...] = (4, 8)
    last_conv: bool = False
    pad_first: bool = False
    norm_eval: bool = True
    momentum: float = 0.9
    dtype: Any = jnp.float32

    def setup(self):
        if self.output_stride not in (8, 16, 32):
            raise ValueError(f"output_stride: expected 8, 16 or 32, found {self.output_stride}")
        shared = dict(norm_eval=self.norm_eval, momentum=self.momentum, dtype=self.dtype)
        start = kernel_init(self.norm_eval)
        ends = dict(activation=nn.relu6, epsilon=EPSILON, kernel_init=start, **shared)
        size, channels = self.stem_kernel
        self.features_0 = ConvNorm(channels, kernel=size, strides=2, **ends)
        layers = _inverted_residuals(self.width, self.output_stride)
        for i, fields in enumerate(layers, start=1):
            layer = block(InvertedResidual)(**fields, pad_first=self.pad_first, **shared)
            setattr(self, f"features_{i}", layer)
        if self.last_conv:
            self.features_18 = ConvNorm(scaled_channels(1280, max(1.0, self.width)), **ends)

    @property
    def stem_kernel(self) -> tuple[int, int]:
        """Side of the first convolution's kernel, and its channels; its stride is 2."""
        return 3, scaled_channels(32, self.width)

    def __call__(self, x: jax.Array, train: bool = False) -> tuple[jax.Array, ...]:
        """x [B, H, W, 3], ImageNet mean and deviation removed -> maps, the finest first.

        As `finer` says features_1 [B, ceil(H / 2), ceil(W / 2), 16 * width], features_3 at stride 4
        with 24 * width channels, features_6 at stride 8 with 32 * width, features_13 at stride 16
        (or less, see output_stride) with 96 * width; then the last one, [B, ceil(H /
        output_stride), ceil(W / output_stride), 320 * width (1280 with last_conv)].
        """
        return self.body(self.stem(x), train)

    def stem(self, x: jax.Array) -> jax.Array:
        """The first convolution, without its norm, [B, ceil(H / 2), ceil(W / 2), 32 * width]."""
        return self.features_0.convolve(x)

    def body(self, x: jax.Array, train: bool = False) -> tuple[jax.Array, ...]:
        """The maps of what `stem` gave."""
        x, maps = self.features_0.finish(x, train), []
        returned = [LAST_AT_STRIDE[stride] for stride in self.finer]
        for i in range(1, NUM_BLOCKS + 1):
            x = getattr(self, f"features_{i}")(x, train)
            if i in returned:
                maps.append(x)
        return *maps, self.features_18(x, train) if self.last_conv else x


def scaled_channels(channels: int, width: float) -> int:
    """channels * width to the nearest multiple of 8, not more than 10 % below (as torchvision)."""
    wanted = channels * width
    rounded = max(8, int(wanted + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * wanted else rounded + 8


def _inverted_residuals(width: float, output_stride: int) -> list[dict[str, Any]]:
    """The arguments of features_1..17.

    A stride that would exceed output_stride becomes 1 and doubles the dilation of every later
    depthwise convolution (its own keeps the old one, so its weights see the same neighbours).
    """
    layers = []
    channels, stride_so_far, dilation = scaled_channels(32, width), 2, 1
    for expansion, stage_channels, repeats, first_stride in _STAGES:
        for i in range(repeats):
            features = scaled_channels(stage_channels, width)
            stride = first_stride if i == 0 else 1
            # torchvision's rule, by the undilated stride, so that the same layers carry the sum.
            layer = dict(residual=stride == 1 and features == channels, dilation=dilation)
            if stride > 1 and stride_so_far == output_stride:
                dilation *= stride
                stride = 1
            stride_so_far *= stride
            layers.append(dict(layer, features=features, expansion=expansion, stride=stride))
            channels = features
    return layers
