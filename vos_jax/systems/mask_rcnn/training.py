"""What Mask R-CNN is trained with: sampled boxes, their targets, and the losses.

He et al., ICCV 2017, and Ren et al., NIPS 2015, as in torchvision and mmdet 0.x. Where the two
differ in which boxes are matched, the geometry decides: mmdet leaves anchors out that cross the
frame's border, lets the best box of an object count from an IoU of 0.3 (proposals: 0.5), and gives
it to that object; torchvision takes all anchors, and counts the best one whatever its IoU.

Every loss is that of each image, scaled so that the mean over the batch is the released one, a sum
over all images divided by the number of boxes of all of them.

Glossary: B images, A anchors, G slots of objects, R boxes that are sampled, K classes with the
background first.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from vos_jax.ops.boxes import Geometry, encode, iou
from vos_jax.ops.detection_targets import match, sample
from vos_jax.systems.mask_rcnn.detection import BOX_WEIGHTS, PROPOSAL_WEIGHTS

PROPOSAL_BETA = 1 / 9  # where smooth L1 becomes linear


@struct.dataclass
class Sampled:
    """Boxes that count, of each image; the positive ones first."""

    index: jax.Array  # int32 [B, R], among all boxes
    drawn: jax.Array  # bool [B, R], whether the place is filled
    slot: jax.Array  # int32 [B, R], the object of a positive box; below 0 for others

    @property
    def positive(self) -> jax.Array:
        """bool [B, R]."""
        return self.drawn & (self.slot >= 0)

    def take(self, boxes: jax.Array) -> jax.Array:
        """Rows of [B, A, ...] that were sampled, [B, R, ...]."""
        return take(boxes, self.index)

    def objects(self, values: jax.Array) -> jax.Array:
        """Rows of [B, G, ...] of the objects, [B, R, ...]; those of slot 0 for negative boxes."""
        return take(values, jnp.maximum(self.slot, 0))


def take(values: jax.Array, index: jax.Array) -> jax.Array:
    """values [B, A, ...] at index [B, R]."""
    return jax.vmap(lambda v, i: v[i])(values, index)


def sample_anchors(
    keys: jax.Array,
    anchors: np.ndarray,
    size: jax.Array,
    boxes: jax.Array,
    valid: jax.Array,
    count: int,
    geometry: Geometry,
) -> Sampled:
    """Half of them positive, at most.

    keys: one for each image; anchors [A, 4]; size [B, 2], of frames; boxes [B, G, 4] and valid bool
    [B, G], of objects.
    """

    def of_image(key, size, boxes, valid):
        if geometry.inclusive:
            inside = (anchors[:, :2] >= 0).all(axis=1) & (anchors[:, 2:] < size[::-1]).all(axis=1)
        else:
            inside = jnp.ones(len(anchors), bool)
        low_quality = 0.3 if geometry.inclusive else 0.0
        overlaps = iou(jnp.asarray(anchors), boxes, geometry)
        options = dict(low_quality=low_quality, takes_over=geometry.inclusive)
        return _sample(key, match(overlaps, inside, valid, 0.7, 0.3, **options), count, 0.5)

    return jax.vmap(of_image)(keys, size, boxes, valid)


def sample_proposals(
    keys: jax.Array,
    proposals: jax.Array,
    usable: jax.Array,
    boxes: jax.Array,
    valid: jax.Array,
    count: int,
    geometry: Geometry,
) -> tuple[Sampled, jax.Array]:
    """A quarter of them positive, at most; true boxes are among them. Also gives them, [B, R, 4].

    proposals [B, P, 4] and usable bool [B, P]; otherwise as `sample_anchors`.
    """
    candidates = jnp.concatenate([boxes, proposals], axis=1)
    usable = jnp.concatenate([valid, usable], axis=1)

    def of_image(key, candidates, usable, boxes, valid):
        low_quality = 0.5 if geometry.inclusive else None
        options = dict(low_quality=low_quality, takes_over=geometry.inclusive)
        matched = match(iou(candidates, boxes, geometry), usable, valid, 0.5, 0.5, **options)
        return _sample(key, matched, count, 0.25)

    sampled = jax.vmap(of_image)(keys, candidates, usable, boxes, valid)
    return sampled, jax.lax.stop_gradient(sampled.take(candidates))


def proposal_losses(
    logits: jax.Array,
    deltas: jax.Array,
    anchors: np.ndarray,
    boxes: jax.Array,
    sampled: Sampled,
    geometry: Geometry,
) -> dict[str, jax.Array]:
    """Of logits [B, A] and deltas [B, A, 4]: "objectness" and "proposal", [B].

    Divided by all sampled anchors; each image has one of either kind at least (mmdet).
    """
    positive, drawn = sampled.positive, sampled.drawn
    negative = (drawn & ~positive).sum(axis=1)
    total = (jnp.maximum(positive.sum(axis=1), 1) + jnp.maximum(negative, 1)).sum()
    logits, deltas = sampled.take(logits), sampled.take(deltas)
    references = jnp.asarray(anchors)[sampled.index]
    targets = encode(references, sampled.objects(boxes), PROPOSAL_WEIGHTS, geometry)
    objectness = _binary_cross_entropy(logits, positive) * drawn
    distance = _smooth_l1(deltas - targets, PROPOSAL_BETA).sum(axis=-1) * positive
    count = len(logits)
    return {
        "objectness": objectness.sum(axis=1) * count / total,
        "proposal": distance.sum(axis=1) * count / total,
    }


def box_losses(
    logits: jax.Array,
    deltas: jax.Array,
    rois: jax.Array,
    boxes: jax.Array,
    classes: jax.Array,
    sampled: Sampled,
    beta: float,
    geometry: Geometry,
) -> dict[str, jax.Array]:
    """Of logits [B, R, K] and deltas [B, R, K, 4] at rois [B, R, 4]: "class" and "box", [B].

    classes: int [B, G], from 1, of objects. beta: where smooth L1 becomes linear.
    """
    positive = sampled.positive
    labels = jnp.where(positive, sampled.objects(classes), 0)
    total = jnp.maximum(sampled.drawn.sum(), 1)
    own = jnp.take_along_axis(jax.nn.log_softmax(logits), labels[..., None], axis=2)[..., 0]
    found = jnp.take_along_axis(deltas, labels[..., None, None], axis=2)[:, :, 0]
    targets = encode(rois, sampled.objects(boxes), BOX_WEIGHTS, geometry)
    distance = _smooth_l1(found - targets, beta).sum(axis=-1) * positive
    count = len(logits)
    return {
        "class": -(own * sampled.drawn).sum(axis=1) * count / total,
        "box": distance.sum(axis=1) * count / total,
    }


def mask_losses(logits: jax.Array, targets: jax.Array, positive: jax.Array) -> jax.Array:
    """Of logits and targets [B, R, m, m] of boxes, a mean over all positive ones: [B]."""
    loss = _binary_cross_entropy(logits, targets).mean(axis=(2, 3)) * positive
    return loss.sum(axis=1) * len(logits) / jnp.maximum(positive.sum(), 1)


def _sample(key, matched, count, share):
    index, drawn = sample(key, matched, count, share)
    return Sampled(index, drawn, jnp.where(drawn, matched[index], -1))


def _binary_cross_entropy(logits, targets):
    return jax.nn.softplus(logits) - logits * targets


def _smooth_l1(x, beta):
    x = jnp.abs(x)
    return jnp.where(x < beta, x * x / (2 * beta), x - beta / 2)
