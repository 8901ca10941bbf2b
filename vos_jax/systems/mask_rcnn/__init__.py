"""Mask R-CNN (ICCV 2017)."""

from vos_jax.systems.base import System
from vos_jax.systems.mask_rcnn.model import MaskRCNN
from vos_jax.systems.mask_rcnn.official import from_official

INFERENCE = (
    "image_scale",
    "canvas",
    "pre_nms",
    "post_nms",
    "proposal_threshold",
    "score_threshold",
    "nms_threshold",
    "max_detections",
)
TINY = {
    "classes": 3,
    "depth": 18,
    "width": 0.125,
    "features": 8,
    "hidden": 16,
    "mask_depth": 1,
    "image_scale": (96, 64),
    "canvas": (64, 96),
    "pre_nms": 24,
    "post_nms": 16,
    "max_detections": 4,
    "train_proposals": 24,
    "anchor_samples": 16,
    "box_samples": 8,
}
SYSTEM = System(
    model=MaskRCNN,
    from_official=from_official,
    task="vis",
    tiny=TINY,
    inference=INFERENCE,
)
