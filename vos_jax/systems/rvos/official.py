"""RVOS from its official PyTorch files, the folder of encoder.pt and decoder.pt of imatge-upc/rvos.

The state dicts of its two parts have no name in common and are read as one. The backbone's
classifier, and the stop head that older decoders carry, are no part of the system.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from vos_jax.official import naming, resnet

_UNUSED = (r"^base\.fc\.", r"^fc_stop\.")
_NORM = {"scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
_LEAVES = {"kernel": ("weight", naming.kernel_from_torch), "bias": ("bias", naming.as_is)}


def from_official(arrays: Mapping[str, np.ndarray], target: Mapping[str, Any]) -> naming.Imported:
    """Variables of RVOS from official arrays; target gives their shapes.

    ValueError names what is missing, unexpected or mis-shaped, or says that the model has another
    backbone than the official one, or that the checkpoint is of the other task.
    """
    if "conv1" not in target["params"]["encoder"]["backbone"]:
        raise ValueError(
            "official RVOS checkpoints have the backbone resnet101, this model another one; "
            'use a preset with model.backbone = "resnet101", such as paper'
        )
    shapes = naming.leaves(target)
    _check_task(arrays, shapes)
    wanted = {path: source(path.split("/")[1:]) for path in shapes}
    return naming.match(arrays, wanted, shapes, ignore=(resnet.COUNTERS,), listed=_UNUSED)


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


def _check_task(arrays: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raises ValueError where a decoder for given masks meets one without, or the other way."""
    gates = arrays.get("clstm_list.0.Gates.weight")
    ours = shapes["params/decoder/level_0/kernel"][2]
    if gates is None or gates.ndim != 4 or abs(gates.shape[1] - ours) != 1:
        return
    one, other = ("one-shot", "zero-shot") if gates.shape[1] > ours else ("zero-shot", "one-shot")
    raise ValueError(
        f"the checkpoint is that of a {one} decoder, the model a {other} one: expected "
        f"clstm_list.0.Gates.weight with {ours} input channels, found {gates.shape[1]}; use preset "
        f"{'paper' if one == 'one-shot' else 'paper_zero_shot'}"
    )


def _leaf(scope: str, leaf: str) -> naming.Source:
    name, transform = _LEAVES[leaf]
    return naming.Source(f"{scope}.{name}", transform)
