"""The table of systems: the one place that lists them.

Commands, benchmarks, error messages and tests read it. A system is added by a folder that defines a
`SYSTEM` and by a line here; a toy system of a test by `monkeypatch.setitem(SYSTEMS, ...)`.
"""

from vos_jax.systems import (
    agame,
    cfbi,
    cosnet,
    feelvos,
    mask_rcnn,
    maskprop,
    masktrack_rcnn,
    rsis,
    rvos,
    stm,
)
from vos_jax.systems.base import System

SYSTEMS: dict[str, System] = {
    "feelvos": feelvos.SYSTEM,
    "stm": stm.SYSTEM,
    "cfbi": cfbi.SYSTEM,
    "cfbi_plus": cfbi.SYSTEM_PLUS,
    "rvos": rvos.SYSTEM,
    "rsis": rsis.SYSTEM,
    "ris": rsis.SYSTEM_RIS,
    "agame": agame.SYSTEM,
    "cosnet": cosnet.SYSTEM,
    "mask_rcnn": mask_rcnn.SYSTEM,
    "masktrack_rcnn": masktrack_rcnn.SYSTEM,
    "maskprop": maskprop.SYSTEM,
}


def systems_of(task: str) -> dict[str, System]:
    """The entries of one family, such as "vos"."""
    return {name: system for name, system in SYSTEMS.items() if system.task == task}
