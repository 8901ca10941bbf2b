"""Systems that give every label one logit per pixel and let the labels compete in a softmax."""

import jax
import jax.numpy as jnp
from flax import struct

from vos_jax.ops.resize import resize_bilinear
from vos_jax.systems.base import VOSModel


@struct.dataclass
class Prediction:
    """Logits of every label and which labels take part."""

    logits: jax.Array  # float [B, N+1, h, w]
    present: jax.Array  # bool [B, N+1]


class LabelLogitsModel(VOSModel):
    """What such systems have in common: the way from logits to probabilities and labels.

    Logits are brought to the size of the frame (bilinear, corners aligned) before labels compete.
    """

    def probabilities(self, prediction: Prediction, size: tuple[int, int]) -> jax.Array:
        """Softmax of the resized logits over the labels that take part, [B, N+1, H, W]."""
        return jax.nn.softmax(_resized(prediction, size), axis=1)

    def labels(self, prediction: Prediction, size: tuple[int, int]) -> jax.Array:
        """Label of the largest resized logit, uint8 [B, H, W]; ties go to the lowest slot."""
        return jnp.argmax(_resized(prediction, size), axis=1).astype(jnp.uint8)


def _resized(prediction: Prediction, size: tuple[int, int]) -> jax.Array:
    logits = resize_bilinear(prediction.logits, size, axes=(2, 3))
    return jnp.where(prediction.present[..., None, None], logits, -jnp.inf)
