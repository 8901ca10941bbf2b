"""A-GAME from its official PyTorch checkpoint (main_runfile_beta_best.pth.tar of agame-vos).

The file holds the state dict under "net", beside an optimizer and pickled statistics, which are not
read. Its backbone has torchvision's names and an ImageNet classifier that nothing uses.
"""

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np

from vos_jax.official import naming, resnet

_REGULARISER = "trackseg.appmod.cov_reg"
_CLASSIFIER = r"\.backbone\.fc\."
_LEAVES = {"kernel": ("weight", naming.kernel_from_torch), "bias": ("bias", naming.as_is)}
_PROPAGATION = "trackseg.dynmod.layers.{}.conv"
_FUSION = {"conv1": "layers.layer00", "conv2": "layers.layer01", "predictor": "predictor.layer00"}
_DILATED = {"dilated_1": "0", "dilated_3": "1", "dilated_6": "2"}
_MASK_CHANNELS = 2  # background and object


def from_official(arrays: Mapping[str, np.ndarray], target: Mapping[str, Any]) -> naming.Imported:
    """Variables of A-GAME from official arrays; target gives their shapes.

    The classifier is listed as unused. ValueError names what is missing, unexpected or mis-shaped,
    or says that the model has another backbone than the official one.
    """
    if "conv1" not in target["params"]["backbone_network"]["network"]:
        raise ValueError(
            "official A-GAME checkpoints have the backbone resnet101, this model another one; "
            'use a preset with model.backbone = "resnet101", such as paper'
        )
    arrays = {name.removeprefix("module."): value for name, value in arrays.items()}
    if arrays.get(_REGULARISER, np.zeros(0)).ndim == 5:  # (K, 1, C, 1, 1)
        arrays[_REGULARISER] = np.squeeze(arrays[_REGULARISER], (1, 3, 4))
    shapes = naming.leaves(target)
    wanted = {path: source(path.split("/")[1:]) for path in shapes}
    return naming.match(arrays, wanted, shapes, ignore=(resnet.COUNTERS,), listed=(_CLASSIFIER,))


def source(parts: list[str]) -> naming.Source:
    """The official source of the leaf at `parts`, a path inside the model."""
    module, rest = parts[0], parts[1:]
    if module == "backbone_network":
        name, transform = resnet.source(rest[1:])
        return naming.Source(f"trackseg.backbone.{name}", transform)
    if module == "regulariser":
        return naming.Source(_REGULARISER, naming.as_is)
    if module == "conv_in":
        return _leaf("trackseg.appmod.conv_in", rest[0])
    if module == "fusion":
        return _leaf(f"trackseg.fusmod.{_FUSION[rest[0]]}.conv", rest[1])
    if module == "upsampling":
        part, _, stride = rest[0].partition("_")
        name = f"{part}_s{stride}" if stride else part
        return _leaf(f"trackseg.segmod.{name}.conv", rest[1])
    if rest[0] in _DILATED:
        return _leaf(_PROPAGATION.format("layer01") + _DILATED[rest[0]], rest[1])
    if rest[0] == "last":
        return _leaf(_PROPAGATION.format("layer02"), rest[1])
    name, transform = _leaf(_PROPAGATION.format("layer00"), rest[1])
    return naming.Source(
        name, functools.partial(_part, rest[0]) if rest[1] == "kernel" else transform
    )


def _leaf(layer: str, leaf: str) -> naming.Source:
    name, transform = _LEAVES[leaf]
    return naming.Source(f"{layer}.{name}", transform)


def _part(module: str, array: np.ndarray) -> np.ndarray:
    """The input channels of one of the modules that the first convolution is the sum of.

    Their order there: frame, frame in which the object was given, previous masks, given masks.
    """
    kernel = naming.kernel_from_torch(array)
    features = (kernel.shape[2] - 2 * _MASK_CHANNELS) // 2
    masks = 2 * features
    return {
        "now": kernel[:, :, :features],
        "then": kernel[:, :, features:masks],
        "previous": kernel[:, :, masks : masks + _MASK_CHANNELS],
        "given": kernel[:, :, masks + _MASK_CHANNELS :],
    }[module]
