"""ResNet-18, 34, 50 and 101 with torchvision's layers, dilated on request.

He, Zhang, Ren, Sun, "Deep Residual Learning for Image Recognition", CVPR 2016 (arXiv:1512.03385),
table 1, in the form of torchvision.models.resnet: a bottleneck has its stride on the 3x3
convolution. Names follow torchvision with "_" for ".": layer3_0 is the first block of layer3.

Deviation: an output_stride below 32 replaces the later strides by dilation, in basic blocks too
(torchvision does it for bottlenecks alone); the parameter tree stays the same. Glossary: B batch,
H W image size.
"""

from collections.abc import Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vos_jax.nn.norm import BatchNorm, ConvNorm
from vos_jax.nn.remat import block

# depth -> blocks of layer1..4, whether they are bottlenecks
DEPTHS = {
    18: ((2, 2, 2, 2), False),
    34: ((3, 4, 6, 3), False),
    50: ((3, 4, 6, 3), True),
    101: ((3, 4, 23, 3), True),
}
_kernel_init = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


class Block(nn.Module):
    """Two 3x3 convolutions, or with `bottleneck` 1x1, 3x3, 1x1 to four times `features`; then sum.

    Submodules conv1, conv2, conv3 (bottleneck) and downsample (where the shortcut changes shape),
    each a ConvNorm. The 3x3 convolution of a bottleneck may have `groups`, each of group_width
    channels for 64 features (Xie et al., ResNeXt, CVPR 2017). first_dilation is that of the
    convolution with the stride. With live norms a fresh block passes on its input alone (Goyal et
    al., arXiv:1706.02677, sec. 5.1): the last scale begins at 0. With fixed ones, which nothing
    brings back to life, it begins at 1. stride_first: a bottleneck has its stride on the first
    convolution, as Caffe's ResNet has it.
    """

    features: int
    bottleneck: bool
    stride: int = 1
    first_dilation: int = 1
    dilation: int = 1
    downsample: bool = False
    stride_first: bool = False
    groups: int = 1
    group_width: int = 64
    norm_eval: bool = True
    momentum: float = 0.9
    epsilon: float = 1e-5
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """x [B, h, w, C] -> [B, ceil(h / stride), ceil(w / stride), features (x 4)]."""

        def conv(features, kernel, name, **options):
            shared = dict(
                norm_eval=self.norm_eval,
                momentum=self.momentum,
                epsilon=self.epsilon,
                dtype=self.dtype,
            )
            return ConvNorm(
                features, kernel, name=name, kernel_init=_kernel_init, **shared, **options
            )

        strided = dict(strides=self.stride, dilation=self.first_dilation, activation=nn.relu)
        last = dict(scale_init=nn.initializers.ones if self.norm_eval else nn.initializers.zeros)
        outputs = self.features * (4 if self.bottleneck else 1)
        if self.bottleneck:
            inner = self.features * self.group_width * self.groups // 64
            first = dict(activation=nn.relu)
            if self.stride_first:
                first["strides"], strided["strides"] = self.stride, 1
            y = conv(inner, 1, "conv1", **first)(x, train)
            y = conv(inner, 3, "conv2", groups=self.groups, **strided)(y, train)
            y = conv(outputs, 1, "conv3", **last)(y, train)
        else:
            y = conv(self.features, 3, "conv1", **strided)(x, train)
            y = conv(outputs, 3, "conv2", dilation=self.dilation, **last)(y, train)
        if self.downsample:
            x = conv(outputs, 1, "downsample", strides=self.stride)(x, train)
        return nn.relu(x + y)


class ResNet(nn.Module):
    """The backbone without its classifier.

    depth: 18, 34, 50 or 101. layers: how many of layer1..4 there are. output_stride: 8, 16 or 32;
    strides beyond it become dilation. width: multiplies all channels. norm_eval: BatchNorm always
    uses its running statistics; it does so in layers before live_from (the stem is layer 0) in any
    case. momentum is that of live ones. stem_map: the map at stride 2 is returned, too. groups and
    group_width: those of ResNeXt, (64, 4) of 64x4d, in bottlenecks.

    `stem` is the first convolution, `body` what comes after it.
    """

    depth: int = 50
    layers: int = 4
    output_stride: int = 32
    width: float = 1.0
    groups: int = 1
    group_width: int = 64
    norm_eval: bool = True
    live_from: int = 0
    momentum: float = 0.9
    stem_map: bool = False
    epsilon: float = 1e-5
    dtype: Any = jnp.float32

    def setup(self):
        if self.depth not in DEPTHS:
            raise ValueError(f"depth: expected one of {sorted(DEPTHS)}, found {self.depth}")
        if self.output_stride not in (8, 16, 32):
            raise ValueError(f"output_stride: expected 8, 16 or 32, found {self.output_stride}")
        size, channels = self.stem_kernel
        self.conv1 = nn.Conv(
            channels,
            (size, size),
            strides=2,
            padding=size // 2,
            use_bias=False,
            kernel_init=_kernel_init,
            dtype=self.dtype,
        )
        shared = dict(momentum=self.momentum, epsilon=self.epsilon, dtype=self.dtype)
        self.bn1 = BatchNorm(norm_eval=self.norm_eval or self.live_from > 0, **shared)
        if self.groups > 1 and not DEPTHS[self.depth][1]:
            raise ValueError(f"groups: ResNet-{self.depth} has no bottlenecks to divide")
        for layer, blocks in enumerate(self._blocks(), start=1):
            norm_eval = self.norm_eval or layer < self.live_from
            for i, fields in enumerate(blocks):
                layer_block = block(Block)(**fields, norm_eval=norm_eval, **shared)
                setattr(self, f"layer{layer}_{i}", layer_block)

    @property
    def stem_kernel(self) -> tuple[int, int]:
        """Side of the first convolution's kernel, and its channels; its stride is 2.

        Each layer has twice the channels of the one before.
        """
        return 7, round(64 * self.width)

    @property
    def pool_padding(self) -> tuple[int, int]:
        """Of the pooling after the stem, before and after each side."""
        return 1, 1

    def __call__(self, x: jax.Array, train: bool = False) -> tuple[jax.Array, ...]:
        """x [B, H, W, C], ImageNet mean and deviation removed -> the output of each layer.

        The maps of layer1, layer2, ... have stride 4, 8, 16, 32 (not more than output_stride);
        before them that of the stem, if it is wanted.
        """
        return self.body(self.stem(x), train)

    def stem(self, x: jax.Array) -> jax.Array:
        """The first convolution, without its norm, [B, ceil(H / 2), ceil(W / 2), 64 * width]."""
        return self.conv1(x)

    def body(self, x: jax.Array, train: bool = False) -> tuple[jax.Array, ...]:
        """The maps of what `stem` gave."""
        x = nn.relu(self.bn1(x, train))
        maps = [x] if self.stem_map else []
        x = nn.max_pool(x, (3, 3), (2, 2), (self.pool_padding, self.pool_padding))
        for layer, blocks in enumerate(self._blocks(), start=1):
            for i in range(len(blocks)):
                x = getattr(self, f"layer{layer}_{i}")(x, train)
            maps.append(x)
        return tuple(maps)

    def _blocks(self) -> Iterator[list[dict[str, Any]]]:
        """The arguments of the blocks of each layer.

        A stride that would exceed output_stride becomes 1 and doubles the dilation of everything
        after it (its own convolution keeps the old one: its weights see the same neighbours).
        """
        repeats, bottleneck = DEPTHS[self.depth]
        stride_so_far, dilation = 4, 1
        for layer in range(self.layers):
            stride, first_dilation = (1 if layer == 0 else 2), dilation
            if stride_so_far * stride > self.output_stride:
                dilation *= stride
                stride = 1
            stride_so_far *= stride
            later = dict(
                features=self.stem_kernel[1] * 2**layer,
                bottleneck=bottleneck,
                dilation=dilation,
                first_dilation=dilation,
                groups=self.groups,
                group_width=self.group_width,
            )
            first = dict(
                later,
                stride=stride,
                first_dilation=first_dilation,
                downsample=bottleneck or layer > 0,
            )
            yield [first] + [later] * (repeats[layer] - 1)
