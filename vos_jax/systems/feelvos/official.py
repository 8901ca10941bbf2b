"""FEELVOS from its official TensorFlow checkpoints (tensorflow/models, research/feelvos).

Official files: model.ckpt-200004 of feelvos_davis17_trained and of
feelvos_davis17_and_youtubevos_trained. Optimizer slots and global_step are skipped.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from vos_jax.official import naming, xception


def from_official(arrays: Mapping[str, np.ndarray], target: Mapping[str, Any]) -> naming.Imported:
    """Variables of FEELVOS from official arrays.

    target gives the shapes: the first layer of the head has one input channel per enabled cue.
    ValueError names what is missing, unexpected or mis-shaped, or says that the model has
    another backbone than the official one.
    """
    if "conv1_1" not in target["params"]["deeplab"]["backbone"]:
        raise ValueError(
            "official FEELVOS checkpoints have the backbone xception_65, this model another one; "
            'use a preset with model.backbone = "xception_65", such as paper'
        )
    shapes = naming.leaves(target)
    wanted = {path: source(path.split("/")[1:]) for path in shapes}
    return naming.match(arrays, wanted, shapes, ignore=xception.OPTIMIZER_STATE)


def source(parts: list[str]) -> naming.Source:
    """The official source of the leaf at `parts`, a path inside the model."""
    module, rest = parts[0], parts[1:]
    if module == "deeplab" and rest[0] == "backbone":
        return xception.source(rest[1:])
    modules = {"deeplab": _deeplab, "embedding": _embedding, "head": _head}
    return modules[module](rest)


def _deeplab(parts: list[str]) -> naming.Source:
    layer, rest = parts[0], parts[1:]
    scope = f"decoder/{layer}" if layer.startswith(("decoder_", "feature_")) else layer
    if rest[0] in ("depthwise", "pointwise"):
        return xception.separable_leaf(scope, rest)
    return xception.leaf(scope, rest)


def _embedding(parts: list[str]) -> naming.Source:
    return xception.separable_leaf("embedding/split_separable_conv2d", parts)


def _head(parts: list[str]) -> naming.Source:
    layer, rest = parts[0], parts[1:]
    if layer == "logits":
        return xception.leaf("logits/semantic", rest)
    number = layer.removeprefix("layer")
    return xception.separable_leaf(f"embedding_seg/split_separable_conv2d_{number}", rest)
