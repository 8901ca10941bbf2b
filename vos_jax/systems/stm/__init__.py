"""STM (ICCV 2019)."""

from vos_jax.systems.base import Part, System
from vos_jax.systems.stm.model import STM, bare_read
from vos_jax.systems.stm.official import from_official

SYSTEM = System(
    model=STM,
    from_official=from_official,
    tiny={
        "backbone": "mobilenet_v2",
        "width": 0.1,
        "key_dim": 4,
        "value_dim": 6,
        "features": 8,
        "memory_every": 2,
        "length": 6,
    },
    inference=(
        "memory_first",
        "memory_previous",
        "memory_every",
        "capacity",
        "length",
        "eviction",
        "memory_devices",
    ),
    parts=(
        Part("segment", "read", floor=bare_read),
        Part("segment", "decoder"),
        Part("memorize", "memory_encoder"),
    ),
    # a memory of five frames that is full: the tables of the papers are about such a one
    measured={"capacity": 5, "memory_every": 1},
    warm_up=5,
)
