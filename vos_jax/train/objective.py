"""What training minimises: a system's own loss over its rollout of a clip."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from vos_jax.inference.rollout import check_num_given, rollout
from vos_jax.nn.remat import recomputed_blocks
from vos_jax.systems.base import VOSModel, of_predicted, one_hot


def make_objective(model: VOSModel, train: Mapping[str, Any], loss: Mapping[str, Any]) -> Callable:
    """The function `objective(variables, batch, step, rng) -> (losses [B], batch_stats, metrics)`.

    Args:
        model: the system, in its training form.
        train: config.train; `num_given` leading frames are shown with their masks, and in the first
            `teacher_forcing_steps` steps the later ones are remembered with their true masks, too,
            instead of the prediction (0: never). `frames_apart`: see `rollout`. `remat`: "none", or
            "blocks" for `nn.remat`.
        loss: config.loss; `scale` multiplies the loss, everything else goes to the system's
            `losses`.

    Raises:
        ValueError: a `num_given` that the system cannot do.
    """
    settings, forced_steps = dict(loss), train["teacher_forcing_steps"]
    scale, num_given = settings.pop("scale", 1.0), train["num_given"]
    check_num_given(model, num_given)

    def objective(variables, batch, step, rng):
        # whatever dtype they travelled in, config.data.transport
        batch = {**batch, "frames": batch["frames"].astype(jnp.float32)}
        labels, valid = batch["labels"], batch["valid"]
        with recomputed_blocks(train.get("remat") == "blocks"):
            predictions, batch_stats = rollout(
                model,
                variables,
                batch["frames"],
                one_hot(labels, valid.shape[1]),
                valid,
                num_given=num_given,
                teacher_forcing=step < forced_steps if forced_steps else None,
                train=True,
                frames_apart=train["frames_apart"],
                rng=rng,
            )
        losses = scale * model.losses(predictions, batch, step, **settings)
        size, seen = labels.shape[2:], of_predicted(labels, predictions)
        found = jax.vmap(lambda prediction: model.labels(prediction, size))(predictions)
        return losses, batch_stats, {"pixel_accuracy": (found == seen).astype(jnp.float32).mean()}

    return objective
