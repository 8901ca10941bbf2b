"""MobileNetV2 from torchvision's ImageNet weights (mobilenet_v2-b0353104.pth and alike)."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from vos_jax.official import naming

_LEAVES = {"scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}


def from_official(arrays: Mapping[str, np.ndarray], target: Mapping[str, Any]) -> naming.Imported:
    """Variables of nn.mobilenet_v2.MobileNetV2 from official arrays; target gives their shapes.

    The classifier, and features.18 where the target lacks it, are listed as unused.
    """
    shapes = naming.leaves(target)
    wanted = {path: source(path.split("/")[1:]) for path in shapes}
    return naming.match(
        arrays,
        wanted,
        shapes,
        ignore=(r"\.num_batches_tracked$",),
        listed=(r"^classifier\.", r"^features\.18\."),
    )


def source(parts: list[str]) -> naming.Source:
    """The official source of the leaf at `parts`, a path inside the backbone's scope."""
    layer, rest = parts[0], parts[1:]
    number = int(layer.removeprefix("features_"))
    if number in (0, 18):
        return _leaf(f"features.{number}.0", f"features.{number}.1", rest)
    # features.1 has no expansion, so its other parts move up by one.
    first = 0 if number == 1 else 1
    part, rest = rest[0], rest[1:]
    scope = f"features.{number}.conv"
    if part == "expand":
        return _leaf(f"{scope}.0.0", f"{scope}.0.1", rest)
    if part == "depthwise":
        return _leaf(f"{scope}.{first}.0", f"{scope}.{first}.1", rest)
    return _leaf(f"{scope}.{first + 1}", f"{scope}.{first + 2}", rest)


def _leaf(convolution: str, norm: str, parts: list[str]) -> naming.Source:
    if parts == ["conv", "kernel"]:
        return naming.Source(f"{convolution}.weight", naming.kernel_from_torch)
    return naming.Source(f"{norm}.{_LEAVES[parts[-1]]}", naming.as_is)
