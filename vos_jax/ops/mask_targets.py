"""What a mask head is trained towards: the mask of an object inside of a box, on a small grid.

He et al., "Mask R-CNN", ICCV 2017, section 3. torchvision resamples the mask by RoIAlign and trains
on the soft result. mmdet 0.x (MaskTrack R-CNN) cuts it out at whole pixels and resizes the uint8
array with OpenCV, whose integer arithmetic rounds zeros and ones to zeros and ones again; comparing
an interpolated value with 1/2 is not the same.

Glossary: G objects, H W the image, R boxes.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from vos_jax.ops.boxes import Geometry
from vos_jax.ops.roi_align import roi_align

_UNIT = 2048  # 1 in OpenCV's fixed-point coefficients


def mask_targets(
    masks: jax.Array, slots: jax.Array, boxes: jax.Array, size: int, geometry: Geometry
) -> jax.Array:
    """The mask of each box's object inside of the box.

    Args:
        masks: bool or uint8 [G, H, W], of zeros and ones.
        slots: int [R], the object of each box.
        boxes: [R, 4], inside of the image.
        size: side of the grid.
        geometry: inclusive ones cut at whole pixels, others resample.

    Returns:
        float32 [R, size, size] in 0..1.
    """
    boxes = lax.stop_gradient(jnp.asarray(boxes))
    masks = jnp.asarray(masks)
    if geometry.inclusive:
        return jax.vmap(lambda slot, box: _resized_crop(masks, slot, box, size))(slots, boxes)

    def resampled(slot_and_box):  # one by one: no copy of a mask for every box
        slot, box = slot_and_box
        mask = masks[slot].astype(jnp.float32)[..., None]
        return roi_align(mask, box[None], size, 1.0, 0, geometry)[0, ..., 0]

    return lax.map(resampled, (jnp.asarray(slots), boxes))


def _resized_crop(masks, slot, box, size):
    """cv2.resize of uint8 masks[slot][y1:y2 + 1, x1:x2 + 1], bilinear, float32 [size, size]."""
    corners = box.astype(jnp.int32)
    edges = jnp.array(masks.shape[:0:-1])  # (W, H)
    lengths = jnp.minimum(jnp.maximum(corners[2:] - corners[:2] + 1, 1), edges - corners[:2])
    x, x_weight = _taps(lengths[0], size)
    y, y_weight = _taps(lengths[1], size)
    rows = corners[1] + y[:, :, None, None]  # [size, 2, 1, 1]
    values = masks[slot, rows, corners[0] + x].astype(jnp.int32)  # [size, 2, size, 2]
    across = (values * x_weight).sum(axis=-1) >> 4
    down = (across * y_weight[..., None]) >> 16
    return ((down.sum(axis=1) + 2) >> 2).astype(jnp.float32)


def _taps(length, size):
    """The two pixels of `length` that each of `size` reads, and their weights, int32 [size, 2].

    The position of output i is (i + 1/2) length / size - 1/2; with both ends over 2 size, whole
    numbers hold it exactly. Beyond the border both are the last pixel, each with its weight.
    """
    place = (2 * np.arange(size) + 1) * length - size
    low, share = place // (2 * size), (place % (2 * size)) * (_UNIT / (2 * size))
    weights = jnp.round(jnp.stack([_UNIT - share, share], axis=-1)).astype(jnp.int32)
    return jnp.clip(jnp.stack([low, low + 1], axis=-1), 0, length - 1), weights
