"""What training minimises: a system's own loss over its rollout of a clip."""

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp

from vos_jax.inference.rollout import rollout
from vos_jax.models.protocol import VOSModel, one_hot


def make_objective(model: VOSModel, train: Mapping[str, Any], loss: Mapping[str, Any]) -> Callable:
    """The function `objective(variables, batch, step, rng) -> (losses [B], batch_stats, metrics)`.

    Args:
      model: the system, in its training form.
      train: config.train; `observed` leading frames are shown with their masks, and in the first
        `truth_steps` steps the later ones are remembered with their true masks, too, instead of the
        prediction (0: never).
      loss: config.loss; `scale` multiplies the loss, everything else goes to the system's `losses`.
    """
    settings, truth_steps = dict(loss), train["truth_steps"]
    scale = settings.pop("scale", 1.0)

    def objective(variables, batch, step, rng):
        labels, valid = batch["masks"], batch["valid"]
        predictions, believed, batch_stats = rollout(
            model,
            variables,
            batch["frames"],
            one_hot(labels, valid.shape[1]),
            valid,
            observed=train["observed"],
            taught=step < truth_steps if truth_steps else None,
            train=True,
            rng=rng,
        )
        seen = labels[:, train["observed"] :]
        losses = scale * model.losses(predictions, seen, valid, step, **settings)
        right = jnp.argmax(believed, axis=2) == jnp.swapaxes(seen, 0, 1)
        return losses, batch_stats, {"pixel_accuracy": right.astype(jnp.float32).mean()}

    return objective
