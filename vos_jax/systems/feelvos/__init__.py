"""FEELVOS (CVPR 2019)."""

from vos_jax.systems.base import Part, System
from vos_jax.systems.feelvos.model import FEELVOS
from vos_jax.systems.feelvos.official import from_official

SYSTEM = System(
    model=FEELVOS,
    from_official=from_official,
    tiny={
        "backbone": "mobilenet_v2",
        "output_stride": 16,
        "width": 0.1,
        "features": 8,
        "embedding_dim": 6,
        "window": 3,
    },
    parts=(Part("segment", "distances"), Part("segment", "head")),
)
