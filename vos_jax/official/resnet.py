"""ResNets from torchvision's ImageNet weights (resnet50-0676ba61.pth and alike)."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from vos_jax.official import naming

_LEAVES = {"scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
COUNTERS = r"\.num_batches_tracked$"


def from_official(arrays: Mapping[str, np.ndarray], target: Mapping[str, Any]) -> naming.Imported:
    """Variables of nn.resnet.ResNet from official arrays; target gives their shapes.

    The classifier, and layers that the target lacks, are listed as unused.
    """
    shapes = naming.leaves(target)
    wanted = {path: source(path.split("/")[1:]) for path in shapes}
    present = {path.split("/")[1].partition("_")[0] for path in shapes}
    absent = [layer for layer in ("layer1", "layer2", "layer3", "layer4") if layer not in present]
    return naming.match(
        arrays, wanted, shapes, ignore=(COUNTERS,), listed=[rf"^{x}\." for x in ("fc", *absent)]
    )


def source(parts: list[str]) -> naming.Source:
    """The official source of the leaf at `parts`, a path inside the backbone's scope."""
    if parts[0] == "conv1":
        return naming.Source("conv1.weight", naming.kernel_from_torch)
    if parts[0] == "bn1":
        return naming.Source(f"bn1.{_LEAVES[parts[1]]}", naming.as_is)
    block, layer, kind, leaf = parts  # layer1_0, conv2, norm, scale
    block = block.replace("_", ".")
    if layer == "downsample":
        conv, norm = f"{block}.downsample.0", f"{block}.downsample.1"
    else:
        conv, norm = f"{block}.{layer}", f"{block}.{layer.replace('conv', 'bn')}"
    if kind == "conv":
        return naming.Source(f"{conv}.weight", naming.kernel_from_torch)
    return naming.Source(f"{norm}.{_LEAVES[leaf]}", naming.as_is)
