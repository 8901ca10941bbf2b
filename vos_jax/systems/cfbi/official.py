"""CFBI and CFBI+ from their official PyTorch checkpoints (resnet101_cfbi.pth and alike), and the
DeepLabv3+ that their training starts from (resnet101-deeplabv3p.pth.tar).

The files hold some layers twice, under two names: CFBI its embedding, MobileNetV2 most of its
blocks. Either name will do, and where both are there they must agree.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from vos_jax.official import mobilenet_v2, naming, resnet

_NORM = {"scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
_SCALARS = r"(^(fg|bg)_bias|\.(alpha|gamma|beta))$"  # stored with three axes of length 1

# second name -> first name
_ALIASES = (
    (r"^semantic_embedding\.0\.", "seperate_conv."),
    (r"^semantic_embedding\.1\.", "bn1."),
    (r"^semantic_embedding\.3\.", "embedding_conv."),
    (r"^semantic_embedding\.4\.", "bn2."),
    (
        r"\bbackbone\.(low_level_features|high_level_features|feautre_8x|feature_\d+x)\.",
        "backbone.features.",
    ),
)

# our module -> convolution and norm of the release
_DEEPLAB = {
    **{f"aspp{i}": (f"aspp.aspp{i + 1}.atrous_conv", f"aspp.aspp{i + 1}.bn") for i in range(4)},
    "image_pooling": ("aspp.global_avg_pool.1", "aspp.global_avg_pool.2"),
    "concat_projection": ("aspp.conv1", "aspp.bn1"),
    "feature_projection0": ("decoder.conv1", "decoder.bn1"),
    "decoder_conv0": ("decoder.last_conv.0", "decoder.last_conv.1"),
    "decoder_conv1": ("decoder.last_conv.4", "decoder.last_conv.5"),
}
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
    return naming.match(_without_aliases(arrays), wanted, shapes, ignore=(resnet.COUNTERS,))


def deeplab_from_official(
    arrays: Mapping[str, np.ndarray], target: Mapping[str, Any]
) -> naming.Imported:
    """Variables of nn.deeplab_dense.DenseDeepLabV3Plus from jfzhang95's checkpoints.

    target gives their shapes. The classifier is listed as unused.
    """
    shapes = naming.leaves(target)
    wanted = {}
    for path in shapes:
        name, transform = _deeplab(path.split("/")[1:])
        wanted[path] = naming.Source(name.removeprefix("feature_extracter."), transform)
    return naming.match(
        _without_aliases(arrays),
        wanted,
        shapes,
        ignore=(resnet.COUNTERS,),
        listed=(r"^decoder\.last_conv\.8\.",),
    )


def _without_aliases(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Every array once, by its first name; scalars and vectors without their axes of length 1."""
    found = {}
    for name, value in arrays.items():
        first = name.removeprefix("module.")
        for pattern, replacement in _ALIASES:
            first = re.sub(pattern, replacement, first)
        if re.search(_SCALARS, first) and sum(n > 1 for n in value.shape) <= 1:
            value = value.reshape(-1)
        if first in found and not np.array_equal(found[first], value):
            raise ValueError(
                f"{name} and {first} are two names of one layer but hold different values; "
                "one of them comes from another checkpoint"
            )
        found[first] = value
    return found


def source(parts: list[str], plus: bool) -> naming.Source:
    """The official source of the leaf at `parts`, a path inside the model; plus: of CFBI+."""
    module, rest = parts[0], parts[1:]
    if module == "deeplab":
        return _deeplab(rest)
    if module == "ensembler":
        name, transform = _head(rest, plus)
        return naming.Source(f"dynamic_seghead.{name}", transform)
    if module == "fpn":
        layer = f"fpn.{_FPN[rest[0]]}"
        return _conv_norm(f"{layer}.0", f"{layer}.1", rest[1:])
    if module in _CFBI:
        return _conv_norm(*_CFBI[module], rest)
    return naming.Source(_BIASES[module], naming.as_is)


def _deeplab(parts: list[str]) -> naming.Source:
    module, rest = parts[0], parts[1:]
    if module != "backbone":
        name, transform = _conv_norm(*_DEEPLAB[module], rest)
        if module == "concat_projection" and rest[-1] == "kernel":
            transform = _pooling_first
    elif rest[0].startswith("features_"):
        name, transform = mobilenet_v2.source(rest)
        name = f"backbone.{_flat_block(name)}"
    else:
        name, transform = resnet.source(rest)
        name = f"backbone.{name}"
    return naming.Source(f"feature_extracter.{name}", transform)


def _flat_block(name: str) -> str:
    """torchvision nests convolution and norm of a block (conv.1.0), the release counts them all."""
    nested = re.fullmatch(r"(features\.\d+\.conv)\.(\d)\.([01])\.(\w+)", name)
    if nested:  # each triple is convolution, norm, activation
        block, triple, part, leaf = nested.groups()
        return f"{block}.{3 * int(triple) + int(part)}.{leaf}"
    last = re.fullmatch(r"(features\.\d+\.conv)\.(\d)\.(\w+)", name)
    if not last:
        return name
    block, number, leaf = last.groups()
    # torchvision's numbers of the projection are 1, 2 (no expansion) or 2, 3
    first = 1 if block == "features.1.conv" else 2
    return f"{block}.{3 * first + int(number) - first}.{leaf}"


def _head(parts: list[str], plus: bool) -> naming.Source:
    module, rest = parts[0], parts[1:]
    if module in _GENERATORS:
        return _linear(_GENERATORS[module], rest[-1])
    if module in _HEAD:
        return _conv_norm(*_HEAD[module], rest)
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
        return _conv_norm(f"{layer}.downsample.0", f"{layer}.downsample.1", rest[1:])
    return _conv_norm(f"{layer}.{rest[0]}", f"{layer}.{rest[0].replace('conv', 'bn')}", rest[1:])


def _aspp(parts: list[str]) -> naming.Source:
    """The ASPP of the head."""
    module, rest = parts[0], parts[1:]
    if module == "pooling":
        return naming.Source("ASPP.global_avg_pool.1.weight", naming.kernel_from_torch)
    if module == "projection":
        return _conv_norm("ASPP.conv1", "ASPP.bn1", rest)
    if module == "gct":
        return naming.Source(f"ASPP.GCT.{rest[0]}", naming.as_is)
    branch = f"ASPP.aspp{int(module[-1]) + 1}"
    if module.startswith("gct"):
        return naming.Source(f"{branch}.GCT.{rest[0]}", naming.as_is)
    return _conv_norm(f"{branch}.atrous_conv", f"{branch}.bn", rest)


def _conv_norm(conv: str, norm: str, parts: list[str]) -> naming.Source:
    """A leaf of a convolution followed by its normalisation."""
    kind, leaf = parts
    if kind == "norm":
        return naming.Source(f"{norm}.{_NORM[leaf]}", naming.as_is)
    if leaf == "bias":
        return naming.Source(f"{conv}.bias", naming.as_is)
    return naming.Source(f"{conv}.weight", naming.kernel_from_torch)


def _linear(name: str, leaf: str) -> naming.Source:
    if leaf == "bias":
        return naming.Source(f"{name}.bias", naming.as_is)
    return naming.Source(f"{name}.weight", np.transpose)


def _pooling_first(kernel: np.ndarray) -> np.ndarray:
    """The release concatenates the pooled branch last, ours comes first."""
    kernel = naming.kernel_from_torch(kernel)
    return np.roll(kernel, kernel.shape[2] // 5, axis=2)
