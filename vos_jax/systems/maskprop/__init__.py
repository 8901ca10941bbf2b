"""MaskProp (CVPR 2020)."""

from vos_jax.systems import masktrack_rcnn
from vos_jax.systems.base import System
from vos_jax.systems.maskprop.model import MaskProp

SYSTEM = System(
    model=MaskProp,
    task="vis",
    tiny={
        **masktrack_rcnn.SYSTEM.tiny,
        "branch_channels": 8,
        "offset_channels": 8,
        "refined_side": 16,
        "refinement_channels": 2,
        "reach": 1,
    },
    inference=(
        *masktrack_rcnn.SYSTEM.inference,
        "linked_by",
        "reach",
        "id_threshold",
        "exclusive_ids",
        "skip_empty",
        "fill_missing",
        "instance_chunk",
    ),
)
