"""What the track head is trained with: boxes of a frame, told apart by those of another one.

Yang, Fan, Xu, ICCV 2019, section 4.2; released code: youtubevos/MaskTrackRCNN,
mmdet/models/track_heads/track_head.py. The positive boxes of the key frame are classified among the
true boxes of the reference frame and "none of them".
"""

import jax
import jax.numpy as jnp

from vos_jax.systems.mask_rcnn.training import Sampled


def track_losses(scores: jax.Array, sampled: Sampled, seen: jax.Array) -> jax.Array:
    """Cross-entropy of each image [B], a mean over its positive boxes.

    As released, an image with exactly one positive box has the loss 0.

    Args:
        scores: [B, R, 1 + G] as of `association.match_scores`, column 1 + g for object g.
        sampled: the boxes and their objects.
        seen: bool [B, G], whether an object is in the reference frame; of others "none" is right.
    """
    positive = sampled.positive
    labels = jnp.where(sampled.objects(seen), sampled.slot + 1, 0)
    labels = jnp.where(positive, labels, 0)
    own = jnp.take_along_axis(jax.nn.log_softmax(scores), labels[..., None], axis=2)[..., 0]
    count = positive.sum(axis=1)
    mean = -jnp.where(positive, own, 0.0).sum(axis=1) / jnp.maximum(count, 1)
    return jnp.where(count > 1, mean, 0.0)
