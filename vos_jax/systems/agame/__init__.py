"""A-GAME (CVPR 2019)."""

from vos_jax.systems.agame.model import AGAME
from vos_jax.systems.agame.official import from_official
from vos_jax.systems.base import Part, System

SYSTEM = System(
    model=AGAME,
    from_official=from_official,
    tiny={
        "backbone": "mobilenet_v2",
        "width": 0.1,
        "channels": 8,
        "fine_channels": 6,
    },
    inference=("update_rate", "aggregate"),
    parts=(
        Part("segment", "propagation"),
        Part("segment", "fusion"),
        Part("segment", "upsampling"),
        Part("memorize", "fitted"),
    ),
    exempt={
        "one_view_is_the_system_itself": "alone it also feeds back what it sees in the padding, "
        "which views of several sizes do not share",
    },
)
