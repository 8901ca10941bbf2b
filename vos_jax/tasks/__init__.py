"""The families of systems, and which one a config is about."""

from collections.abc import Mapping
from typing import Any

from vos_jax.systems.table import SYSTEMS
from vos_jax.tasks.base import Task
from vos_jax.tasks.vis import VIS
from vos_jax.tasks.vos import VOS

TASKS: Mapping[str, Task] = {"vos": VOS, "vis": VIS}


def task_of(config: Mapping[str, Any]) -> Task:
    """The task of the system that config.model names."""
    return TASKS[SYSTEMS[config["model"]["name"]].task]
