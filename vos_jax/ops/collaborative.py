"""Foreground against background: what CFBI adds to matching.

Yang, Wei, Yang, "Collaborative Video Object Segmentation by Foreground-Background Integration",
ECCV 2020 (arXiv:2003.08333) and "... by Multi-Scale Foreground-Background Integration", TPAMI 2021
(arXiv:2010.06349). The background is a label like any other, and every label has a background of
its own: all the other labels.

Glossary: B videos, h w grid, C channels, L labels (0 is the background).
"""

import jax
import jax.numpy as jnp
from flax import struct
from jax import lax

from vos_jax.ops.nearest import label_sizes

EPSILON = 1e-5  # added to counts, as in the released code


def background_distances(distances: jax.Array, present: jax.Array) -> jax.Array:
    """Of each label the smallest distance to any other one, which is its background.

    distances: [B, L, ...], the largest possible one for labels without pixels; present: bool
    [B, L], labels that take part. A label that is alone gets its own distances (released code).
    """
    num_labels = distances.shape[1]
    shape = (num_labels, num_labels) + (1,) * (distances.ndim - 2)
    own = jnp.eye(num_labels, dtype=bool).reshape(shape)
    others = jnp.where(own, jnp.inf, distances[:, None]).min(axis=2)
    alone = (jnp.sum(present, axis=1) == 1).reshape((-1,) + (1,) * (distances.ndim - 1))
    return jnp.where(alone, distances, others)


def atrous_labels(labels: jax.Array, num_labels: int, rate: int, min_pixels: int = 0) -> jax.Array:
    """Labels int32 [B, h, w] with -1 at the reference pixels that atrous matching leaves out.

    Every `rate`-th row and column, from the first on, stays; labels with no more than
    min_pixels * rate^2 pixels stay whole. Values outside 0..num_labels-1 become -1.
    """
    batch, h, w = labels.shape
    known = (labels >= 0) & (labels < num_labels)
    grid = (jnp.arange(h)[:, None] % rate == 0) & (jnp.arange(w) % rate == 0)
    if min_pixels:
        small = label_sizes(labels.reshape(batch, -1), num_labels) <= min_pixels * rate**2
        index = jnp.where(known, labels, 0).reshape(batch, -1)
        grid = grid | jnp.take_along_axis(small, index, axis=1).reshape(labels.shape)
    return jnp.where(known & grid, labels, -1).astype(jnp.int32)


@struct.dataclass
class LabelSums:
    """Sums of an embedding over the pixels of each label; those of several frames add up."""

    sums: jax.Array  # [B, L, C]
    counts: jax.Array  # [B, L]
    total: jax.Array  # [B, C], over all pixels, also those without a label
    pixels: jax.Array  # [B]

    @classmethod
    def of(cls, embedding: jax.Array, labels: jax.Array, num_labels: int) -> "LabelSums":
        """Of one frame: embedding [B, h, w, C], labels int [B, h, w]."""
        batch, h, w, channels = embedding.shape
        masks = labels.reshape(batch, 1, -1) == jnp.arange(num_labels)[:, None]
        masks = masks.astype(jnp.float32)
        flat = embedding.reshape(batch, -1, channels).astype(jnp.float32)
        return cls(
            sums=jnp.einsum("blp,bpc->blc", masks, flat, precision=lax.Precision.HIGHEST),
            counts=masks.sum(axis=2),
            total=flat.sum(axis=1),
            pixels=jnp.full(batch, h * w, jnp.float32),
        )

    def means(self) -> tuple[jax.Array, jax.Array]:
        """Mean embedding inside and outside of each label, [B, L, C] each; 0 where there is none.

        Instance-level attention, section 3.2 of CFBI.
        """
        inside = self.sums / (self.counts + EPSILON)[..., None]
        # Where nothing is outside, the difference of the sums is nothing but rounding errors.
        count = (self.pixels[:, None] - self.counts)[..., None]
        outside = (self.total[:, None] - self.sums) / (jnp.maximum(count, 1) + EPSILON)
        return inside, jnp.where(count > 0, outside, 0.0)


def calibrate_background(
    foreground: jax.Array, background: jax.Array, present: jax.Array
) -> jax.Array:
    """Logits of the labels, where the background needs the consent of every object.

    foreground, background: [B, L, h, w], how much a pixel is the label's and how much it is not;
    present: bool [B, L]. The smallest background logit of the objects is added to the foreground
    logit of label 0; without objects nothing is.
    """
    objects = present[:, 1:, None, None]
    least = jnp.where(objects, background[:, 1:], jnp.inf).min(axis=1)
    least = jnp.where(objects.any(axis=1), least, 0.0)
    return foreground.at[:, 0].add(least)
