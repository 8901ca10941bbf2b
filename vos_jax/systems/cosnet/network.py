"""The network of COSNet around its co-attention: weights of the affinity, gate, segmentation.

Lu et al., CVPR 2019, sections 3.1 to 3.3; released code: carrierlxk/COSNet,
deeplab/siamese_model_conf.py, class CoattentionModel.

Glossary: B videos, R references, h w the grid, C channels.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vos_jax.nn.convlstm import convolve
from vos_jax.nn.norm import BatchNorm
from vos_jax.ops import coattention

MECHANISMS = ("vanilla", "symmetric", "channelwise")
SQUEEZED = 16  # channels are so many times fewer inside of the channel-wise weights
_init = nn.initializers.normal(0.01)  # of the release
HIGHEST = jax.lax.Precision.HIGHEST


class Affinity(nn.Module):
    """Queries and keys of features, whose products are the affinity S = V_b' W V_a.

    mechanism: "vanilla" (equation 3; the release), a full W. "symmetric" (equation 4), W = P' D P
    with D diagonal; `penalty` is how far P is from orthogonal. "channelwise" (equation 5), a
    diagonal W = D_a D_b; each frame weighs its channels by their means over the frame, squeezed and
    excited (the paper refers to Hu et al., CVPR 2018, and gives no more of it).
    """

    mechanism: str
    features: int
    dtype: Any = jnp.float32

    def setup(self):
        square = (self.features, self.features)
        if self.mechanism == "vanilla":
            self.weight = self.param("weight", nn.initializers.lecun_normal(), square)
        elif self.mechanism == "symmetric":
            self.projection = self.param("projection", nn.initializers.orthogonal(), square)
            self.diagonal = self.param("diagonal", nn.initializers.ones, square[:1])
        else:
            self.squeeze = nn.Dense(max(self.features // SQUEEZED, 1))
            self.excite = nn.Dense(self.features)

    def query(self, features: jax.Array) -> jax.Array:
        """Features [B, h, w, C] of the frame that is segmented -> [B, h * w, C]."""
        x = features.reshape(len(features), -1, self.features)
        if self.mechanism == "channelwise":
            return self._weighed(features).reshape(x.shape)
        return self._times(x, self.matrix())

    def keys(self, features: jax.Array) -> jax.Array:
        """Features [B, R, h, w, C] of references -> [B, R, h, w, C]."""
        if self.mechanism == "channelwise":
            return self._weighed(features)
        return features

    def turned(self, reference: jax.Array, features: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Query and keys of the same affinity the other way: what a reference sees in the frame.

        Both [B, h, w, C] -> [B, h * w, C] and [B, 1, h, w, C].
        """
        if self.mechanism == "channelwise":
            return self.query(reference), self.keys(features[:, None])
        x = reference.reshape(len(reference), -1, self.features)
        return self._times(x, self.matrix().T), features[:, None]

    def matrix(self) -> jax.Array:
        """W' [C, C], by which a query is multiplied from the right."""
        if self.mechanism == "vanilla":
            return self.weight
        weighed = self.projection * self.diagonal[:, None]
        return jnp.matmul(self.projection.T, weighed, precision=HIGHEST)

    def penalty(self) -> jax.Array:
        """How far P is from orthogonal, []; 0 where there is none."""
        if self.mechanism != "symmetric":
            return jnp.zeros(())
        return coattention.off_orthogonal(self.projection)

    def _times(self, x: jax.Array, matrix: jax.Array) -> jax.Array:
        x = x.astype(jnp.float32)
        return jnp.matmul(x, matrix, precision=HIGHEST).astype(self.dtype)

    def _weighed(self, features: jax.Array) -> jax.Array:
        mean = jnp.mean(features, axis=(-3, -2), dtype=jnp.float32)
        weights = nn.sigmoid(self.excite(nn.relu(self.squeeze(mean))))
        return (features * weights[..., None, None, :]).astype(self.dtype)


class Gate(nn.Module):
    """How much of a summary is let through, float32. bias: the paper's; the release has none."""

    bias: bool = False

    @nn.compact
    def __call__(self, summary: jax.Array) -> jax.Array:
        """[..., C] -> [..., C]."""
        weight = self.param("weight", _init, summary.shape[-1:])
        bias = self.param("bias", nn.initializers.zeros, ()) if self.bias else 0.0
        return coattention.gated(summary, weight, bias)


class Head(nn.Module):
    """Segmentation of features beside a summary: 3x3, norm, ReLU, 1x1.

    A convolution is a sum over input channels, so that of the features is computed once for all
    summaries.
    """

    features: int
    norm_eval: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, summaries: jax.Array, features: jax.Array, train: bool = False) -> jax.Array:
        """[B, M, h, w, C], [B, h, w, C] -> logits float32 [B, M, h, w]."""
        channels = features.shape[-1]
        kernel = self.param("kernel", _init, (3, 3, 2 * channels, self.features))
        of_summaries, of_features = jnp.split(kernel.astype(self.dtype), 2, axis=2)
        x = convolve(summaries, of_summaries) + convolve(features, of_features)[:, None]
        norm = BatchNorm(norm_eval=self.norm_eval, dtype=self.dtype, name="norm")
        x = nn.relu(norm(x, train)).astype(jnp.float32)
        return logits("logits")(x)[..., 0]


def logits(name: str | None = None) -> nn.Module:
    """A map float32 of features: 1x1.

    It does not begin as small as in the release: all its weights would take the sign that the
    background asks for in the first steps, and then no feature can speak for the object.
    """
    return nn.Dense(1, precision=HIGHEST, name=name)
