"""One training step of a tiny FEELVOS on any mesh; test_training runs this file on 8 devices.

Argument: the beginning of the names of the files that take the arrays after the step, one for each
mesh.
"""

import sys
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
from ml_collections import ConfigDict

from tests import tiny
from vos_jax.systems.build import build_model, variable_shapes
from vos_jax.train.objective import make_objective
from vos_jax.train.partition import build_mesh, shard_batch
from vos_jax.train.setup import begin_training

ROWS = 8
SEED = 49  # of lively variables whose losses and gradients say something
MESHES = {"data": (8, 1), "fsdp": (1, 8)}


def sgd_config() -> ConfigDict:
    """Plain momentum, whose buffer is the gradient after the first step."""
    config = tiny.get_config("feelvos")
    config.optim.update({"name": "sgd", "clip": "none", "learning_rate": 1e-3})
    return config


def training(config: ConfigDict, data: int, fsdp: int):
    """(state placed on a mesh, train step, mesh)."""
    config.mesh.update({"data": data, "fsdp": fsdp})
    model, mesh = build_model(config.model), build_mesh(config.mesh)
    objective = make_objective(model, config.train, config.loss)
    variables = tiny.lively(variable_shapes(model), SEED)
    return *begin_training(config, objective, variables, mesh, min_size=16), mesh


def after_one_step(data: int, fsdp: int) -> dict[str, np.ndarray]:
    """Every array of the state and the losses after one step: path -> array.

    With the key "split": how many arrays of the state lie in parts on the devices.
    """
    config = sgd_config()
    state, step, mesh = training(config, data, fsdp)
    state, metrics = step(state, shard_batch(tiny.examples(config, ROWS), mesh))
    tree = {"state": state, "losses": metrics["losses"]}
    named = jax.tree_util.tree_leaves_with_path(tree)
    arrays = {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in named}
    arrays["split"] = np.sum([not leaf.is_fully_replicated for _, leaf in named])
    return arrays


def main(out: str) -> None:
    def save(name):
        np.savez(f"{out}_{name}.npz", **after_one_step(*MESHES[name]))

    with tiny.quick_compilation(), ThreadPoolExecutor() as pool:  # compiling is what takes time
        list(pool.map(save, MESHES))


if __name__ == "__main__":
    main(*sys.argv[1:])
