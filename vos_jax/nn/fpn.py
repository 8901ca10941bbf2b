"""Feature pyramids: maps brought to one width, the coarse ones passed down.

Lin et al., "Feature Pyramid Networks for Object Detection", CVPR 2017. FPN is that of the paper and
of detectors (torchvision, mmdet); GroupNormFPN that of CFBI+ (TPAMI 2021, arXiv:2010.06349, section
3.6) and its released code. Glossary: B batch, hs ws the grid at stride s.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vos_jax.nn.group_norm import ConvGroupNorm
from vos_jax.nn.remat import block
from vos_jax.ops.convolution import conv_general_dilated
from vos_jax.ops.resize import resize_bilinear


class FPN(nn.Module):
    """Lateral 1x1 convolutions, sums from coarse to fine, 3x3 smoothing of every level.

    Convolutions have biases and nothing else; a coarse map is enlarged by repeating its cells. One
    more level at the end holds every other cell of the coarsest.
    """

    features: int = 256
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, maps: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        """maps [B, hs, ws, C] from fine to coarse, each half of the one before (rounded up).

        Returns one level more, of `features` channels.
        """

        def layer(side, name):
            return nn.Conv(
                self.features,
                (side, side),
                padding=side // 2,
                kernel_init=nn.initializers.xavier_uniform(),
                conv_general_dilated=conv_general_dilated,
                dtype=self.dtype,
                name=name,
            )

        above, results = None, []
        for level in reversed(range(len(maps))):
            merged = layer(1, f"lateral{level}")(maps[level])
            if above is not None:
                doubled = jnp.repeat(jnp.repeat(above, 2, axis=1), 2, axis=2)
                merged += doubled[:, : merged.shape[1], : merged.shape[2]]
            results.append(layer(3, f"smooth{level}")(merged))
            above = merged
        return (*reversed(results), results[0][:, ::2, ::2])


class GroupNormFPN(nn.Module):
    """Lateral 1x1 convolutions, sums from coarse to fine, 3x3 smoothing of all but the coarsest."""

    features: int = 256
    groups: int = 32
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, maps: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        """maps [B, hs, ws, C] from fine to coarse -> as many of `features` channels, after ReLU.

        Sums run over maps before their smoothing.
        """

        def layer(kernel, name):
            return block(ConvGroupNorm)(
                self.features, kernel, groups=self.groups, dtype=self.dtype, name=name
            )

        above, results = None, []
        for level in reversed(range(len(maps))):
            merged = layer(1, f"lateral{level}")(maps[level])
            if above is None:
                results.append(nn.relu(merged))
            else:
                merged += resize_bilinear(above, merged.shape[1:3])
                results.append(nn.relu(layer(3, f"smooth{level}")(merged)))
            above = merged
        return tuple(reversed(results))
