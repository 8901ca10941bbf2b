"""RIS (ECCV 2016) and RSIS (arXiv 1712.00617): objects of single images, one after the other."""

from vos_jax.systems.base import Part, System
from vos_jax.systems.rsis.model import RSIS
from vos_jax.systems.rsis.official import from_official

SYSTEM = System(
    model=RSIS,
    from_official=from_official,
    tiny={"backbone": "mobilenet_v2", "width": 0.1, "features": 16, "proposals": 3, "size": (0, 0)},
    inference=("threshold", "min_share", "size"),
    config="rvos.py:rsis",
    parts=(Part("encode", "encoder"), Part("segment", "decoder")),
)
