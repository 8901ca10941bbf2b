"""Non-maximum suppression, exact and of fixed shape.

The best box is kept, what overlaps it too much is dropped, and so on: `best_boxes` does so as often
as boxes are wanted, which costs that many passes over the candidates whatever their number. That
the search ends there is exact, since no box is dropped by a worse one; candidates of many classes
need neither a sort nor a cut. A loop of fixed length runs under vmap with no word between devices.

As in torchvision and the CUDA kernel of mmdet 0.x, a box is dropped where its IoU exceeds the
threshold (the CPU version of mmdet 0.x drops equal ones, too). Of equal scores the first wins.
"""

import jax
import jax.numpy as jnp

from vos_jax.ops.boxes import Geometry, iou


def best_boxes(
    boxes: jax.Array,
    scores: jax.Array,
    valid: jax.Array,
    threshold: float,
    most: int,
    geometry: Geometry,
    classes: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """The boxes that survive, the best first.

    Args:
        boxes: [N, 4], in any order.
        scores: [N]; probabilities or logits.
        valid: bool [N]; others are neither kept nor drop any.
        threshold: largest IoU of two that are kept.
        most: how many are wanted, at most; static.
        classes: int [N]; boxes of different classes do not drop each other. None: all are of one.

    Returns:
        index int32 [most] and found bool [most]; once nothing is left, index is 0 and found False.
    """
    boxes, scores = jax.lax.stop_gradient((jnp.asarray(boxes), jnp.asarray(scores, jnp.float32)))
    classes = jnp.zeros(len(boxes), jnp.int32) if classes is None else jnp.asarray(classes)

    def keep_one(left, _):
        best = jnp.argmax(jnp.where(left, scores, -jnp.inf))
        found = left[best]
        overlaps = iou(boxes[best][None], boxes, geometry)[0] > threshold
        overlaps |= jnp.arange(len(boxes)) == best  # also where it has no area
        dropped = overlaps & (classes == classes[best]) & found
        return left & ~dropped, (jnp.where(found, best, 0), found)

    return jax.lax.scan(keep_one, jnp.asarray(valid), length=most)[1]


def nms(
    boxes: jax.Array,
    scores: jax.Array,
    valid: jax.Array,
    threshold: float,
    geometry: Geometry,
    classes: jax.Array | None = None,
) -> jax.Array:
    """Which boxes survive, bool [N]; arguments as those of `best_boxes`."""
    count = len(boxes)
    index, found = best_boxes(boxes, scores, valid, threshold, count, geometry, classes)
    return jnp.zeros(count, bool).at[index].max(found)
