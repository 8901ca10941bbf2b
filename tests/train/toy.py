"""A tiny training problem: a strided convolution net with live BatchNorm and dropout.

Its activations are smooth: a ReLU whose input is within rounding of zero passes its gradient on
one device and not on another, which no tolerance for rounding covers.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from vos_jax.presets.common import optim_section, train_section
from vos_jax.train.checkpoint import Checkpoints
from vos_jax.train.logs import Logger
from vos_jax.train.loop import train
from vos_jax.train.partition import build_mesh
from vos_jax.train.setup import begin_training


class Toy(nn.Module):
    width: int = 16
    live: bool = True
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.Conv(self.width, (3, 3), strides=2, name="stem")(x)
        x = nn.BatchNorm(use_running_average=not (train and self.live), name="norm")(x)
        x = nn.Dropout(self.dropout, deterministic=not train)(nn.gelu(x))
        x = nn.Conv(2 * self.width, (3, 3), name="body")(x)
        return nn.Dense(1, name="head")(nn.gelu(x).mean(axis=(1, 2)))[:, 0]


def optim_config(**changes) -> ConfigDict:
    config = ConfigDict(optim_section())
    config.update(
        {
            "name": "sgd",
            "learning_rate": 0.05,
            "schedule": "poly",
            "steps": 20,
            "weight_decay": 1e-3,
            "decay": ("kernel$",),
            "gradient_multipliers": (("bias$", 2.0),),
            "clip": "per_parameter",
        }
    )
    with config.ignore_type():
        config.update(changes)
    return config


def toy_config(**train_changes) -> ConfigDict:
    config = ConfigDict()
    config.seed = 3
    config.optim = optim_config()
    config.train = ConfigDict(train_section())
    config.train.update({"batch": 4, "steps": 6, "ema": 0.9, "save_steps": 2, "save_minutes": 0})
    config.train.update(train_changes)
    config.mesh = ConfigDict({"data": 1, "fsdp": 1})
    config.log = ConfigDict({"every": 2})
    config.profile_steps = ()
    config.eval = ConfigDict({"every": 3, "metric": "J&F"})
    return config


def objective_of(model):
    def objective(variables, batch, step, rng):
        prediction, changed = model.apply(
            variables, batch["x"], train=True, mutable=["batch_stats"], rngs={"dropout": rng}
        )
        losses = (prediction - batch["y"]) ** 2
        return losses, changed["batch_stats"], {"bias": prediction.mean()}

    return objective


def example(index: int, seed: int = 0) -> tuple[np.ndarray, np.float32]:
    x = np.random.default_rng([seed, index]).normal(size=(8, 8, 3)).astype(np.float32)
    return x, np.float32(x.mean() * 10 + 1)


def batches_of(batch: int, poison: int = -1):
    """batches(start): examples start, start+1, ...; example `poison` is NaN."""

    def batches(start):
        while True:
            rows = [example(start + i) for i in range(batch)]
            x, y = (np.stack(part) for part in zip(*rows, strict=True))
            names = [f"clip{start + i}" for i in range(batch)]
            y[[start + i == poison for i in range(batch)]] = np.nan
            yield {"x": x, "y": y, "name": names, "ids": [[1]] * batch}
            start += batch

    return batches


def build(config: ConfigDict, model: Toy | None = None, devices=None, min_size: int = 64):
    """(placed state, train step, mesh) of a config."""
    model = model or Toy(dropout=0.3)
    variables = model.init(jax.random.PRNGKey(config.seed), jnp.zeros([1, 8, 8, 3]))
    mesh = build_mesh(config.mesh, devices)
    state, step = begin_training(config, objective_of(model), variables, mesh, min_size)
    return state, step, mesh


def run(config: ConfigDict, workdir, batches=None, evaluate=None, model=None):
    """Trains a toy run in a workdir and returns its TrainResult."""
    state, step, mesh = build(config, model)
    checkpoints = Checkpoints(workdir, config.train.keep_last)
    logger = Logger(workdir)
    try:
        return train(
            config,
            state=state,
            train_step=step,
            mesh=mesh,
            batches=batches or batches_of(config.train.batch),
            checkpoints=checkpoints,
            logger=logger,
            evaluate=evaluate,
        )
    finally:
        checkpoints.close()
        logger.close()
