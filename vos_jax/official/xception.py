"""Xception-65 from TensorFlow checkpoints of DeepLab (ImageNet, COCO, ...), scope xception_65."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from vos_jax.official import naming

# No weights: the step and what optimizers and moving averages keep beside a variable.
OPTIMIZER_STATE = (
    r"(^|/)global_step$",
    r"(^|/)beta[12]_power$",
    r"/(Momentum|Adam|Adam_1|RMSProp|RMSProp_1|ExponentialMovingAverage)$",
)

_BLOCKS = {
    "block1": "entry_flow/block1/unit_1",
    "block2": "entry_flow/block2/unit_1",
    "block3": "entry_flow/block3/unit_1",
    "exit1": "exit_flow/block1/unit_1",
    "exit2": "exit_flow/block2/unit_1",
}
_LEAVES = {
    "conv/kernel": "weights",
    "kernel": "weights",
    "bias": "biases",
    "norm/scale": "BatchNorm/gamma",
    "norm/bias": "BatchNorm/beta",
    "norm/mean": "BatchNorm/moving_mean",
    "norm/var": "BatchNorm/moving_variance",
}


def from_official(arrays: Mapping[str, np.ndarray], target: Mapping[str, Any]) -> naming.Imported:
    """Variables of nn.xception.Xception65 from official arrays; target gives their shapes.

    Everything outside the backbone (logits, ASPP, decoder) is listed as unused.
    """
    shapes = naming.leaves(target)
    wanted = {path: source(path.split("/")[1:]) for path in shapes}
    heads = (r"^(?!xception_65/(entry|middle|exit)_flow/)",)
    return naming.match(arrays, wanted, shapes, ignore=OPTIMIZER_STATE, listed=heads)


def source(parts: list[str]) -> naming.Source:
    """The official source of the leaf at `parts`, a path inside the backbone's scope."""
    layer, rest = parts[0], parts[1:]
    if layer.startswith("conv1_"):
        return leaf(f"xception_65/entry_flow/{layer}", rest)
    block = _BLOCKS.get(layer, f"middle_flow/block1/{layer}")
    scope = f"xception_65/{block}/xception_module"
    if rest[0] == "shortcut":
        return leaf(f"{scope}/shortcut", rest[1:])
    number = rest[0].removeprefix("sep")
    return separable_leaf(f"{scope}/separable_conv{number}", rest[1:])


def separable_leaf(scope: str, parts: list[str]) -> naming.Source:
    """A leaf of a separable convolution: scope_depthwise/... or scope_pointwise/..."""
    return leaf(f"{scope}_{parts[0]}", parts[1:], depthwise=parts[0] == "depthwise")


def leaf(scope: str, parts: list[str], depthwise: bool = False) -> naming.Source:
    """A leaf of a convolution or its normalisation, by the names of TF-Slim."""
    ours = "/".join(parts)
    if depthwise and parts[-1] == "kernel":
        return naming.Source(f"{scope}/depthwise_weights", naming.depthwise_from_tensorflow)
    return naming.Source(f"{scope}/{_LEAVES[ours]}", naming.as_is)
