"""CFBI (ECCV 2020) and CFBI+ (TPAMI 2021)."""

from vos_jax.systems.base import Part, System
from vos_jax.systems.cfbi.model import CFBI
from vos_jax.systems.cfbi.official import from_official
from vos_jax.systems.cfbi.plus import CFBIPlus

_TINY = {
    "backbone": "mobilenet_v2",
    "width": 0.1,
    "features": 8,
    "embedding_dim": 8,
    "head_width": 16,
    "groups": 2,
}
_PARTS = (
    Part("segment", "match_anywhere"),
    Part("segment", "match_within"),
    Part("segment", "ensembler"),
)

SYSTEM = System(
    model=CFBI,
    from_official=from_official,
    tiny={**_TINY, "matching_dims": (8,), "windows": ((1, 2, 4),)},
    parts=_PARTS,
)
SYSTEM_PLUS = System(
    model=CFBIPlus,
    from_official=from_official,
    tiny={**_TINY, "matching_dims": (2, 4, 8), "windows": ((2, 4), (1, 2), (1, 2))},
    parts=_PARTS,
)
