"""CFBI and CFBI+ from their official PyTorch checkpoints (resnet101_cfbi.pth and alike).

The files hold some layers twice, under two names: CFBI its embedding, MobileNetV2 most of its
blocks. Either name will do, and where both are there they must agree.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from vos_jax.official import deeplab_dense, naming, resnet
from vos_jax.official.deeplab_dense import conv_norm

_SCALARS = r"(^|\.)((fg|bg)_bias|alpha|gamma|beta)$"  # stored with three axes of length 1

# second name -> first name
_ALIASES = (
    (r"^semantic_embedding\.0\.", "seperate_conv."),
    (r"^semantic_embedding\.1\.", "bn1."),
    (r"^semantic_embedding\.3\.", "embedding_conv."),
    (r"^semantic_embedding\.4\.", "bn2."),
)

# our module -> convolution and norm of the release
_CFBI = {
    "embedding_depthwise": ("seperate_conv", "bn1"),
    "embedding": ("embedding_conv", "bn2"),
    "prehead": ("dynamic_prehead.conv", "dynamic_prehead.bn"),
}
_FPN = {
    "lateral2": "toplayer", "lateral1": "latlayer1", "lateral0": "latlayer2",
    "smooth1": "smooth1", "smooth0": "smooth2",
}  # fmt: skip
_HEAD = {"skip_conv": ("conv_sc", "bn_sc"), "conv1": ("conv1", "bn1"), "conv2": ("conv2", "bn2")}
_BIASES = {"foreground_bias": "fg_bias", "background_bias": "bg_bias"}
_GENERATORS = {"foreground": "IA_final_fg", "background": "IA_final_bg"}
_STAGES = {1: 0, 2: 2, 3: 5}  # how many layers of the head come before a stage


def from_official(arrays: Mapping[str, np.ndarray], target: Mapping[str, Any]) -> naming.Imported:
    """Variables of CFBI or CFBIPlus from official arrays; target gives their shapes.

    ValueError names what is missing, unexpected or mis-shaped, or two names of one layer that hold
    different values.
    """
    shapes = naming.leaves(target)
    plus = "fpn" in target["params"]
    wanted = {path: source(path.split("/")[1:], plus) for path in shapes}
    arrays = {name: _flat(name, value) for name, value in arrays.items()}
    arrays = deeplab_dense.without_aliases(arrays, _ALIASES)
    return naming.match(arrays, wanted, shapes, ignore=(resnet.COUNTERS,))


def _flat(name: str, value: np.ndarray) -> np.ndarray:
    """Scalars and vectors without their axes of length 1."""
    scalar = re.search(_SCALARS, name) and sum(n > 1 for n in value.shape) <= 1
    return value.reshape(-1) if scalar else value


def source(parts: list[str], plus: bool) -> naming.Source:
    """The official source of the leaf at `parts`, a path inside the model; plus: of CFBI+."""
    module, rest = parts[0], parts[1:]
    if module == "deeplab":
        name, transform = deeplab_dense.source(rest)
        return naming.Source(f"feature_extracter.{name}", transform)
    if module == "ensembler":
        name, transform = _head(rest, plus)
        return naming.Source(f"dynamic_seghead.{name}", transform)
    if module == "fpn":
        layer = f"fpn.{_FPN[rest[0]]}"
        return conv_norm(f"{layer}.0", f"{layer}.1", rest[1:])
    if module in _CFBI:
        return conv_norm(*_CFBI[module], rest)
    return naming.Source(_BIASES[module], naming.as_is)


def _head(parts: list[str], plus: bool) -> naming.Source:
    module, rest = parts[0], parts[1:]
    if module in _GENERATORS:
        return _linear(_GENERATORS[module], rest[-1])
    if module in _HEAD:
        return conv_norm(*_HEAD[module], rest)
    if module == "skip_gct":
        return naming.Source(f"GCT_sc.{rest[0]}", naming.as_is)
    if module == "aspp":
        return _aspp(rest)
    if module in ("gate1", "gate2"):
        return _linear(f"IA{9 + int(module[-1])}.IA", rest[-1])
    if module == "aspp_gate":
        return _linear("ASPP_IA.IA" if plus else "IA9.IA", rest[-1])
    stage, kind, number = re.fullmatch(r"stage(\d)_(gate|layer)(\d)", module).groups()
    scope, number = ("", int(number) + _STAGES[int(stage)])
    if plus:
        scope, number = f"S{stage}_", number - _STAGES[int(stage)]
    if kind == "gate":
        return _linear(f"{scope}IA{number}.IA", rest[-1])
    layer = f"{scope}layer{number}"
    if rest[0] == "gct":
        return naming.Source(f"{layer}.GCT1.{rest[1]}", naming.as_is)
    if rest[0] == "downsample":
        return conv_norm(f"{layer}.downsample.0", f"{layer}.downsample.1", rest[1:])
    return conv_norm(f"{layer}.{rest[0]}", f"{layer}.{rest[0].replace('conv', 'bn')}", rest[1:])


def _aspp(parts: list[str]) -> naming.Source:
    """The ASPP of the head."""
    module, rest = parts[0], parts[1:]
    if module == "pooling":
        return naming.Source("ASPP.global_avg_pool.1.weight", naming.kernel_from_torch)
    if module == "projection":
        return conv_norm("ASPP.conv1", "ASPP.bn1", rest)
    if module == "gct":
        return naming.Source(f"ASPP.GCT.{rest[0]}", naming.as_is)
    branch = f"ASPP.aspp{int(module[-1]) + 1}"
    if module.startswith("gct"):
        return naming.Source(f"{branch}.GCT.{rest[0]}", naming.as_is)
    return conv_norm(f"{branch}.atrous_conv", f"{branch}.bn", rest)


def _linear(name: str, leaf: str) -> naming.Source:
    if leaf == "bias":
        return naming.Source(f"{name}.bias", naming.as_is)
    return naming.Source(f"{name}.weight", np.transpose)
