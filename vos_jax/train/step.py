"""One optimizer step, compiled once for the whole run: gradient, update, average, diagnosis.

An objective is a function
    objective(variables, batch, step, rng) -> (losses [B] float32, batch_stats, metrics)
where variables = {"params", "batch_stats"}, step is a traced int32, rng a key of this step,
batch_stats the updated BatchNorm averages (or the given ones) and metrics a dict of scalars.
The loss is the mean of losses over the global batch.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from vos_jax.train.optim import Schedule, fits, map_with_path
from vos_jax.train.partition import batch_sharding
from vos_jax.train.state import TrainState

Objective = Callable[[dict, dict, jax.Array, jax.Array], tuple[jax.Array, Any, dict]]


def make_train_step(
    objective: Objective,
    tx: optax.GradientTransformation,
    mesh: Mesh,
    sharding: TrainState,
    *,
    schedule: Schedule,
    accumulate: int = 1,
    ema_decay: float = 0.0,
    freeze: Sequence[str] = (),
) -> Callable[[TrainState, dict], tuple[TrainState, dict]]:
    """A jitted function (state, batch) -> (new state, metrics) on global arrays.

    sharding: TrainState of shardings (partition.state_sharding). The given state is donated: use
    only the returned one. accumulate: micro-batches per step, whose mean gradient is the big
    batch's; live BatchNorm sees each of them in turn. ema_decay: ema <- d*ema + (1-d)*params.
    freeze: patterns of config.optim.freeze; their gradients are not computed.

    metrics: the objective's (mean over micro-batches), "loss", "learning_rate", "gradient_norm"
    (before clipping, without frozen parameters), "losses" [B] in the order of the batch, and
    "finite": whether the losses and every number of the new state are finite.
    """

    copied = NamedSharding(mesh, PartitionSpec())

    def train_step(state: TrainState, batch: dict) -> tuple[TrainState, dict]:
        rng = jax.random.fold_in(state.rng, state.step)

        def loss_function(params, batch_stats, rows, key):
            # FSDP gathers weights. Left to itself, XLA would rather split the convolutions whose
            # kernels lie in parts, and gather activations, which are many times larger.
            params = jax.lax.with_sharding_constraint(params, copied)
            params = map_with_path(
                lambda path, p: jax.lax.stop_gradient(p) if fits(freeze, path) else p, params
            )
            variables = {"params": params, "batch_stats": batch_stats}
            losses, batch_stats, metrics = objective(variables, rows, state.step, key)
            return losses.mean(), (losses, batch_stats, metrics)

        gradients, losses, batch_stats, metrics = _gradients(
            loss_function, state, batch, rng, accumulate
        )
        updates, opt_state = tx.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        new_state = state.replace(
            step=state.step + 1,
            params=params,
            batch_stats=batch_stats,
            opt_state=opt_state,
            ema=_averaged(state.ema, params, ema_decay),
        )
        return new_state, {
            **metrics,
            "loss": losses.mean(),
            "learning_rate": schedule(state.step),
            "gradient_norm": optax.global_norm(gradients),
            "losses": losses,
            "finite": _all_finite((losses, new_state)),
        }

    return jax.jit(
        train_step,
        in_shardings=(sharding, batch_sharding(mesh)),
        out_shardings=(sharding, copied),
        donate_argnums=0,
    )


def _gradients(loss_function, state, batch, rng, accumulate):
    """Mean gradient, losses [B], batch_stats, mean metrics over the micro-batches."""
    value_and_grad = jax.value_and_grad(loss_function, has_aux=True)
    if accumulate == 1:
        (_, (losses, batch_stats, metrics)), gradients = value_and_grad(
            state.params, state.batch_stats, batch, rng
        )
        return gradients, losses, batch_stats, metrics

    def micro_step(carry, index_and_rows):
        total, batch_stats = carry
        index, rows = index_and_rows
        (_, (losses, batch_stats, metrics)), gradients = value_and_grad(
            state.params, batch_stats, rows, jax.random.fold_in(rng, index)
        )
        return (jax.tree.map(jnp.add, total, gradients), batch_stats), (losses, metrics)

    zeros = jax.tree.map(jnp.zeros_like, state.params)
    (total, batch_stats), (losses, metrics) = jax.lax.scan(
        micro_step,
        (zeros, state.batch_stats),
        (jnp.arange(accumulate), jax.tree.map(lambda x: _split(x, accumulate), batch)),
    )
    gradients = jax.tree.map(lambda g: g / accumulate, total)
    metrics = jax.tree.map(lambda m: m.mean(axis=0), metrics)
    return gradients, losses.swapaxes(0, 1).reshape(-1), batch_stats, metrics


def _split(rows: jax.Array, accumulate: int) -> jax.Array:
    """[B, ...] -> [accumulate, B/accumulate, ...]; micro-batch j takes the rows j, j+accumulate, ..

    so that rows stay on the device that holds them.
    """
    return rows.reshape(-1, accumulate, *rows.shape[1:]).swapaxes(0, 1)


def _averaged(ema: Any, params: Any, decay: float) -> Any:
    return None if ema is None else optax.incremental_update(params, ema, 1 - decay)


def _all_finite(tree: Any) -> jax.Array:
    leaves = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.inexact)]
    return jnp.stack([jnp.isfinite(x).all() for x in leaves]).all()
