"""Official names of the encoder and the decoder that RSIS and RVOS share (imatge-upc).

The two parts are in files of their own, encoder.pt and decoder.pt, and have no name in common.
"""

from collections.abc import Mapping
from typing import Any

from vos_jax.official import naming, resnet

UNUSED = r"^base\.fc\."  # the backbone's classifier
_NORM = {"scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
_LEAVES = {"kernel": ("weight", naming.kernel_from_torch), "bias": ("bias", naming.as_is)}


def check_backbone(name: str, preset: str, target: Mapping[str, Any]) -> None:
    """Raises ValueError unless a model has the backbone of the official files.

    name: of the system. preset: one that has it.
    """
    if "conv1" not in target["params"]["encoder"]["backbone"]:
        raise ValueError(
            f"official {name} checkpoints have the backbone resnet101, this model another one; "
            f'use a preset with model.backbone = "resnet101", such as {preset}'
        )


def source(parts: list[str]) -> naming.Source:
    """The official source of the leaf at `parts`, a path inside the model."""
    module, layer, rest = parts[0], parts[1], parts[2:]
    if module == "decoder":
        if not rest:
            return _leaf("conv_out", layer)
        return _leaf(f"clstm_list.{layer.removeprefix('level_')}.Gates", rest[0])
    if layer == "backbone":
        name, transform = resnet.source(rest)
        return naming.Source(f"base.{name}", transform)
    number = layer.removeprefix("skip")
    if rest[0] == "norm":
        return naming.Source(f"bn{number}.{_NORM[rest[1]]}", naming.as_is)
    return _leaf(f"sk{number}", rest[1])


def _leaf(scope: str, leaf: str) -> naming.Source:
    name, transform = _LEAVES[leaf]
    return naming.Source(f"{scope}.{name}", transform)
