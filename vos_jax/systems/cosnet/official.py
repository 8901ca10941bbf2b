"""COSNet from its official PyTorch checkpoint (co_attention_davis_43.pth of carrierlxk/COSNet).

The file holds the state dict under "model", with "module." before every name. Its network has full
weights of the affinity and a gate without bias; both segmentation heads are in it.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from vos_jax.official import naming, resnet

_SLOPE = "encoder.layer5.prelu.weight"
_LEAVES = {"kernel": "weight", "bias": "bias"}
_NORM = {"scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
_PYRAMID = {
    "image_pooling": ("conv", "bn_x"),
    **{f"aspp{i}": (f"conv2d_{i}", f"bn_{i}") for i in range(4)},
    "bottleneck": ("bottleneck", "bn"),
}
_HEADS = {"head": "1", "reference_head": "2"}  # the number at the end of their layers' names


def from_official(arrays: Mapping[str, np.ndarray], target: Mapping[str, Any]) -> naming.Imported:
    """Variables of COSNet from official arrays; target gives their shapes.

    ValueError names what is missing, unexpected or mis-shaped, or says in what the model is not the
    official one.
    """
    params = target["params"]
    if "conv1" not in params["encoder"]["backbone"]:
        raise ValueError(
            "official COSNet checkpoints have the backbone resnet101, this model another one; "
            'use a preset with model.backbone = "resnet101", such as paper'
        )
    if "weight" not in params.get("affinity", {}) or "bias" in params["gate"]:
        raise ValueError(
            "official COSNet checkpoints have vanilla co-attention and a gate without bias, this "
            'model does not; use a preset with model.attention = "vanilla" and model.gate_bias = '
            "False, such as paper"
        )
    arrays = {name.removeprefix("module."): value for name, value in arrays.items()}
    arrays = {name: _without_ones(name, value) for name, value in arrays.items()}
    shapes = naming.leaves(target)
    wanted = {path: source(path.split("/")[1:]) for path in shapes}
    return naming.match(arrays, wanted, shapes, ignore=(resnet.COUNTERS,))


def source(parts: list[str]) -> naming.Source:
    """The official source of the leaf at `parts`, a path inside the model."""
    module, rest = parts[0], parts[1:]
    if module == "encoder":
        return _encoder(rest)
    if module == "encoder_logits":
        return _dense("encoder.main_classifier", rest[0])
    if module == "affinity":
        return naming.Source("linear_e.weight", np.transpose)
    if module == "gate":
        return naming.Source("gate.weight", naming.as_is)
    number = _HEADS[module]
    if rest[0] == "kernel":
        return naming.Source(f"conv{number}.weight", naming.kernel_from_torch)
    if rest[0] == "norm":
        return naming.Source(f"bn{number}.{_NORM[rest[1]]}", naming.as_is)
    return _dense(f"main_classifier{number}", rest[1])


def _encoder(parts: list[str]) -> naming.Source:
    module, rest = parts[0], parts[1:]
    if module == "backbone":
        name, transform = resnet.source(rest)
        return naming.Source(f"encoder.{name}", transform)
    if module == "slope":
        return naming.Source(_SLOPE, naming.as_is)
    conv, norm = _PYRAMID[module]
    if rest[0] == "norm":
        return naming.Source(f"encoder.layer5.{norm}.{_NORM[rest[1]]}", naming.as_is)
    transform = naming.kernel_from_torch if rest[1] == "kernel" else naming.as_is
    return naming.Source(f"encoder.layer5.{conv}.{_LEAVES[rest[1]]}", transform)


def _dense(name: str, leaf: str) -> naming.Source:
    transform = np.transpose if leaf == "kernel" else naming.as_is
    return naming.Source(f"{name}.{_LEAVES[leaf]}", transform)


def _without_ones(name: str, value: np.ndarray) -> np.ndarray:
    """The array without axes of 1x1 kernels that ours, which are products, do not have."""
    if re.fullmatch(r"(encoder\.)?main_classifier\d?\.weight", name) and value.ndim == 4:
        return value.reshape(value.shape[:2])
    return np.squeeze(value) if name == "gate.weight" else value
