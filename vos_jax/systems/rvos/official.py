"""RVOS from its official PyTorch files, the folder of encoder.pt and decoder.pt of imatge-upc/rvos.

The state dicts of its two parts have no name in common and are read as one. The backbone's
classifier, and the stop head that older decoders carry, are no part of the system.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from vos_jax.official import naming, resnet, skip_decoder

_UNUSED = (skip_decoder.UNUSED, r"^fc_stop\.")


def from_official(arrays: Mapping[str, np.ndarray], target: Mapping[str, Any]) -> naming.Imported:
    """Variables of RVOS from official arrays; target gives their shapes.

    ValueError names what is missing, unexpected or mis-shaped, or says that the model has another
    backbone than the official one, or that the checkpoint is of the other task.
    """
    skip_decoder.check_backbone("RVOS", "paper", target)
    shapes = naming.leaves(target)
    _check_task(arrays, shapes)
    wanted = {path: skip_decoder.source(path.split("/")[1:]) for path in shapes}
    return naming.match(arrays, wanted, shapes, ignore=(resnet.COUNTERS,), listed=_UNUSED)


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
