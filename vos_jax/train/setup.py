"""From a config to everything that a training run consists of."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from vos_jax.systems.base import VOSModel
from vos_jax.systems.build import build_model, variable_shapes
from vos_jax.train.initial import initial_variables
from vos_jax.train.objective import make_objective
from vos_jax.train.optim import build_optimizer
from vos_jax.train.partition import build_mesh, place, state_sharding
from vos_jax.train.state import TrainState
from vos_jax.train.step import Objective, make_train_step


@dataclass(frozen=True)
class Training:
    """A run before its first step.

    Attributes:
        model: the system in its training form.
        mesh: the devices.
        state: at step 0, placed on the mesh.
        step: the compiled step (state, batch) -> (state, metrics); it donates the state.
    """

    model: VOSModel
    mesh: Mesh
    state: TrainState
    step: Callable[[TrainState, dict], tuple[TrainState, dict]]


def build_training(
    config: Any,
    variables: dict[str, Any] | None = None,
    restored: bool = False,
    objective: Callable[..., Objective] = make_objective,
) -> Training:
    """The run that a whole config describes.

    Args:
        config: its sections model, train, loss, optim, mesh, init and seed.
        objective: of the system's task, a function of the model, config.train and config.loss.
        variables: what to start from; None: fresh ones, and what config.init names.
        restored: a checkpoint is to replace the state, so nothing is drawn, read or compiled for
            it: the variables are zeros.

    Raises:
        ValueError: a field that does not fit, with its name.
    """
    model = build_model(config.model, **config.train.model)
    minimised = objective(model, config.train, config.loss)
    if variables is None and restored:
        variables = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), variable_shapes(model))
    elif variables is None:
        variables = initial_variables(model, config.init, config.seed)
    mesh = build_mesh(config.mesh)
    return Training(model, mesh, *begin_training(config, minimised, variables, mesh))


def begin_training(
    config: Any, objective: Objective, variables: dict[str, Any], mesh: Mesh, min_size: int = 1024
) -> tuple[TrainState, Callable]:
    """State at step 0 on the mesh, and the step that minimises an objective from there.

    config: its sections train and optim, and seed. min_size: see `partition.state_sharding`.
    """
    tx, schedule = build_optimizer(config.optim, variables["params"])
    state = TrainState.create(variables, tx, config.seed, ema=config.train.ema > 0)
    sharding = state_sharding(state, mesh, min_size)
    step = make_train_step(
        objective,
        tx,
        mesh,
        sharding,
        schedule=schedule,
        accumulate=config.train.accumulate,
        ema_decay=config.train.ema,
        freeze=config.optim.freeze,
    )
    return place(state, sharding), step
