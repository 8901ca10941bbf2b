"""Mask R-CNN from torchvision's checkpoints (maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth and alike).

torchvision has renamed layers twice; both forms are read.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from vos_jax.official import naming, resnet

_RENAMED = (
    (r"^(backbone\.fpn\.(?:inner|layer)_blocks\.\d)\.(weight|bias)$", r"\1.0.\2"),
    (r"^rpn\.head\.conv\.(weight|bias)$", r"rpn.head.conv.0.0.\1"),
)
_OLD_MASK = re.compile(r"^roi_heads\.mask_head\.mask_fcn(\d)\.(weight|bias)$")
_LAYERS = {
    "fpn/lateral": "backbone.fpn.inner_blocks.{}.0",
    "fpn/smooth": "backbone.fpn.layer_blocks.{}.0",
    "rpn/conv": "rpn.head.conv.0.0",
    "rpn/objectness": "rpn.head.cls_logits",
    "rpn/deltas": "rpn.head.bbox_pred",
    "box_head/fc1": "roi_heads.box_head.fc6",
    "box_head/fc2": "roi_heads.box_head.fc7",
    "box_head/logits": "roi_heads.box_predictor.cls_score",
    "box_head/deltas": "roi_heads.box_predictor.bbox_pred",
    "mask_head/conv": "roi_heads.mask_head.{}.0",
    "mask_head/upsample": "roi_heads.mask_predictor.conv5_mask",
    "mask_head/logits": "roi_heads.mask_predictor.mask_fcn_logits",
}
_FLATTENED = ("box_head/fc1", "track_head/fc1")  # what reads the bins of a box


def from_official(arrays: Mapping[str, np.ndarray], target: Mapping[str, Any]) -> naming.Imported:
    """Variables of Mask R-CNN from official arrays; target gives their shapes.

    ValueError names what is missing, unexpected or mis-shaped.
    """
    return import_detector(
        {_current_name(k): v for k, v in arrays.items()}, target, _LAYERS, "body."
    )


def import_detector(
    arrays: Mapping[str, np.ndarray],
    target: Mapping[str, Any],
    layers: Mapping[str, str],
    body: str,
) -> naming.Imported:
    """The same for any release of the network.

    layers: our layer ("fpn/lateral", without a number) -> the official one ("{}": its number);
    body: what names of the backbone begin with after "backbone.".
    """
    shapes = naming.leaves(target)
    wanted = {path: _source(path.split("/")[1:], layers, body, arrays) for path in shapes}
    return naming.match(arrays, wanted, shapes, ignore=(resnet.COUNTERS,))


def _source(parts, layers, body, arrays) -> naming.Source:
    """The official source of the leaf at `parts`, a path inside the model."""
    if parts[0] == "backbone":
        name, transform = resnet.source(parts[1:])
        return naming.Source(f"backbone.{body}{name}", transform)
    layer = "/".join(parts[:2])
    if layer not in layers:
        layer, number = layer[:-1], layer[-1]
    else:
        number = ""
    name = layers[layer].format(number)
    if parts[-1] == "bias":
        return naming.Source(f"{name}.bias", naming.as_is)
    return naming.Source(f"{name}.weight", _transform(layer))


def _transform(layer):
    if layer in _FLATTENED:
        return _flattened
    if layer == "mask_head/upsample":
        return lambda array: array.transpose(0, 2, 3, 1)  # (C, D, 2, 2) -> [C, 2, 2, D]
    if layer.startswith(("box_head", "track_head")):
        return np.transpose
    return naming.kernel_from_torch


def _flattened(array, bins=7):
    """(hidden, C * 7 * 7) -> [7 * 7 * C, hidden]."""
    parts = array.reshape(len(array), -1, bins, bins)
    return parts.transpose(2, 3, 1, 0).reshape(-1, len(array))


def _current_name(name: str) -> str:
    for pattern, replacement in _RENAMED:
        name = re.sub(pattern, replacement, name)
    old = _OLD_MASK.match(name)
    return f"roi_heads.mask_head.{int(old[1]) - 1}.0.{old[2]}" if old else name
