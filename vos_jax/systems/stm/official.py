"""STM from its official PyTorch checkpoint (STM_weights.pth of seoungwugoh/STM).

The file is the state dict of a DataParallel module, hence the prefix "module." (optional here). The
ImageNet mean and deviation stored in it are constants of ours.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from vos_jax.official import naming, resnet

_CONSTANTS = r"^Encoder_[MQ]\.(mean|std)$"
_ENCODERS = {"memory_encoder": "M", "query_encoder": "Q"}
_PLANES = {"mask": "conv1_m", "others": "conv1_o"}
_DECODER = {
    "conv_fm": "convFM", "conv_fs": "convFS", "res_mm": "ResMM", "res_fs": "ResFS",
    "rf3": "RF3", "rf2": "RF2",
}  # fmt: skip
_LEAVES = {"kernel": ("weight", naming.kernel_from_torch), "bias": ("bias", naming.as_is)}


def from_official(arrays: Mapping[str, np.ndarray], target: Mapping[str, Any]) -> naming.Imported:
    """Variables of STM from official arrays; target gives their shapes.

    ValueError names what is missing, unexpected or mis-shaped, or says that the model has another
    backbone than the official one.
    """
    if "conv1" not in target["params"]["query_encoder"]["backbone"]:
        raise ValueError(
            "official STM checkpoints have the backbone resnet50, this model another one; "
            'use a preset with model.backbone = "resnet50", such as paper'
        )
    arrays = {name.removeprefix("module."): value for name, value in arrays.items()}
    shapes = naming.leaves(target)
    wanted = {path: source(path.split("/")[1:]) for path in shapes}
    return naming.match(arrays, wanted, shapes, ignore=(resnet.COUNTERS, _CONSTANTS))


def source(parts: list[str]) -> naming.Source:
    """The official source of the leaf at `parts`, a path inside the model."""
    module, rest = parts[0], parts[1:]
    if module == "decoder":
        return _leaf("Decoder", *(_DECODER.get(part, part) for part in rest))
    encoder = _ENCODERS[module]
    if rest[0] == "backbone":
        name, transform = resnet.source(rest[1:])
        for layer in (1, 2, 3):  # res2 is torchvision's layer1
            name = name.replace(f"layer{layer}.", f"res{layer + 1}.")
        return naming.Source(f"Encoder_{encoder}.{name}", transform)
    if rest[0] == "heads":
        return _leaf(f"KV_{encoder}_r4", rest[1].capitalize(), rest[2])
    return _leaf(f"Encoder_{encoder}", _PLANES[rest[0]], "kernel")


def _leaf(*parts: str) -> naming.Source:
    name, transform = _LEAVES[parts[-1]]
    return naming.Source(".".join([*parts[:-1], name]), transform)
