"""MaskTrack R-CNN (ICCV 2019)."""

from vos_jax.systems import mask_rcnn
from vos_jax.systems.base import System
from vos_jax.systems.masktrack_rcnn.model import MaskTrackRCNN
from vos_jax.systems.masktrack_rcnn.official import from_official

SYSTEM = System(
    model=MaskTrackRCNN,
    from_official=from_official,
    task="vis",
    tiny={**mask_rcnn.TINY, "capacity": 8},
    inference=(*mask_rcnn.INFERENCE, "match_coeff", "use_embedding", "capacity", "unique_ids"),
)
