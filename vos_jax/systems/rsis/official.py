"""RSIS from its official PyTorch files, the folder of encoder.pt and decoder.pt of imatge-upc/rsis.

Encoder and decoder have the names of RVOS's, one level more and two heads.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from vos_jax.official import naming, resnet, skip_decoder

_HEADS = {"class_logits": "fc_class", "stop_logits": "fc_stop"}


def from_official(arrays: Mapping[str, np.ndarray], target: Mapping[str, Any]) -> naming.Imported:
    """Variables of RSIS from official arrays; target gives their shapes.

    ValueError names what is missing, unexpected or mis-shaped, or says that the model has another
    backbone than the official one, another number of classes, or a head for boxes.
    """
    skip_decoder.check_backbone("RSIS", "rsis", target)
    shapes = naming.leaves(target)
    if "box_logits" in target["params"]["heads"]:
        raise ValueError(
            "official RSIS checkpoints have no head for boxes, this model has one: use a preset"
            " with model.boxes = False, such as rsis"
        )
    _check_classes(arrays, shapes)
    wanted = {path: _source(path.split("/")[1:]) for path in shapes}
    return naming.match(
        arrays, wanted, shapes, ignore=(resnet.COUNTERS,), listed=(skip_decoder.UNUSED,)
    )


def _check_classes(arrays: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]]) -> None:
    found, ours = arrays.get("fc_class.bias"), shapes["params/heads/class_logits/bias"][0]
    if found is not None and found.shape != (ours,):
        raise ValueError(
            f"the checkpoint tells {found.size} classes apart, the model {ours}: set"
            f" --config.model.classes={found.size}"
        )


def _source(parts: list[str]) -> naming.Source:
    if parts[0] == "heads":
        name = _HEADS[parts[1]]
        if parts[2] == "kernel":
            return naming.Source(f"{name}.weight", lambda x: x.T)
        return naming.Source(f"{name}.bias", naming.as_is)
    return skip_decoder.source(parts)
