"""DeepLabv3+ with dense convolutions from jfzhang95's PyTorch checkpoints.

CFBI's training starts from resnet101-deeplabv3p.pth.tar, and its own checkpoints hold the same
network. Most blocks of MobileNetV2 are in the files twice, under two names; either name will do,
and where both are there they must agree.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vos_jax.official import mobilenet_v2, naming, resnet

_NORM = {"scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}

# second name -> first name
_ALIASES = (
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


def from_official(arrays: Mapping[str, np.ndarray], target: Mapping[str, Any]) -> naming.Imported:
    """Variables of DenseDeepLabV3Plus from official arrays; target gives their shapes.

    The classifier is listed as unused.
    """
    shapes = naming.leaves(target)
    wanted = {path: source(path.split("/")[1:]) for path in shapes}
    return naming.match(
        without_aliases(arrays),
        wanted,
        shapes,
        ignore=(resnet.COUNTERS,),
        listed=(r"^decoder\.last_conv\.8\.",),
    )


def without_aliases(
    arrays: Mapping[str, np.ndarray], aliases: Sequence[tuple[str, str]] = ()
) -> dict[str, np.ndarray]:
    """Every array once, by its first name.

    aliases: further pairs (pattern of a second name, first name). ValueError where two names of one
    layer hold different values.
    """
    found = {}
    for name, value in arrays.items():
        first = name.removeprefix("module.")
        for pattern, replacement in (*_ALIASES, *aliases):
            first = re.sub(pattern, replacement, first)
        if first in found and not np.array_equal(found[first], value):
            raise ValueError(
                f"{name} and {first} are two names of one layer but hold different values; "
                "one of them comes from another checkpoint"
            )
        found[first] = value
    return found


def source(parts: list[str]) -> naming.Source:
    """The official source of the leaf at `parts`, a path inside the network."""
    module, rest = parts[0], parts[1:]
    if module != "backbone":
        name, transform = conv_norm(*_DEEPLAB[module], rest)
        if module == "concat_projection" and rest[-1] == "kernel":
            transform = _pooling_first
    elif rest[0].startswith("features_"):
        name, transform = mobilenet_v2.source(rest)
        name = f"backbone.{_flat_block(name)}"
    else:
        name, transform = resnet.source(rest)
        name = f"backbone.{name}"
    return naming.Source(name, transform)


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


def conv_norm(conv: str, norm: str, parts: list[str]) -> naming.Source:
    """A leaf of a convolution followed by its normalisation."""
    kind, leaf = parts
    if kind == "norm":
        return naming.Source(f"{norm}.{_NORM[leaf]}", naming.as_is)
    if leaf == "bias":
        return naming.Source(f"{conv}.bias", naming.as_is)
    return naming.Source(f"{conv}.weight", naming.kernel_from_torch)


def _pooling_first(kernel: np.ndarray) -> np.ndarray:
    """The release concatenates the pooled branch last, ours comes first."""
    kernel = naming.kernel_from_torch(kernel)
    return np.roll(kernel, kernel.shape[2] // 5, axis=2)
