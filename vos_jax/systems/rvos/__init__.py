"""RVOS (CVPR 2019)."""

from vos_jax.systems.base import Part, System
from vos_jax.systems.rvos.model import RVOS
from vos_jax.systems.rvos.official import from_official

_ORDER = "objects are decoded one after the other, in the order of their ids"
SYSTEM = System(
    model=RVOS,
    from_official=from_official,
    tiny={"backbone": "mobilenet_v2", "width": 0.1, "features": 8, "size": (0, 0)},
    inference=("proposals", "decode_absent", "size"),
    parts=(Part("encode", "encoder"), Part("segment", "decoder")),
    exempt={
        "ids_may_be_any_and_come_in_any_order": _ORDER,
        "permuted_ids_give_the_same_losses_and_gradients": _ORDER,
        "one_view_is_the_system_itself": "views share probabilities, which compete; the system "
        "alone tells its network the map of each object",
    },
)
