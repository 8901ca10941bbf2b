"""MaskTrack R-CNN from its official checkpoint (epoch_12.pth of youtubevos/MaskTrackRCNN)."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from vos_jax.official import naming
from vos_jax.systems.mask_rcnn.official import import_detector

LAYERS = {
    "fpn/lateral": "neck.lateral_convs.{}.conv",
    "fpn/smooth": "neck.fpn_convs.{}.conv",
    "rpn/conv": "rpn_head.rpn_conv",
    "rpn/objectness": "rpn_head.rpn_cls",
    "rpn/deltas": "rpn_head.rpn_reg",
    "box_head/fc1": "bbox_head.shared_fcs.0",
    "box_head/fc2": "bbox_head.shared_fcs.1",
    "box_head/logits": "bbox_head.fc_cls",
    "box_head/deltas": "bbox_head.fc_reg",
    "mask_head/conv": "mask_head.convs.{}.conv",
    "mask_head/upsample": "mask_head.upsample",
    "mask_head/logits": "mask_head.conv_logits",
    "track_head/fc1": "track_head.fcs.0",
    "track_head/fc2": "track_head.fcs.1",
}


def from_official(arrays: Mapping[str, np.ndarray], target: Mapping[str, Any]) -> naming.Imported:
    """Variables of MaskTrack R-CNN from official arrays; target gives their shapes.

    ValueError names what is missing, unexpected or mis-shaped, and says what a first upload, whose
    track head has other names, is.
    """
    if any(name.startswith("track_head.fc.") for name in arrays):
        raise ValueError(
            "expected track_head.fcs.0.weight, found track_head.fc.*: this is the first upload of "
            "the official checkpoint, which was replaced in August 2019; download it again"
        )
    return import_detector(arrays, target, LAYERS, "")
