"""One training step of a tiny FEELVOS on any mesh; test_invariants runs this file on 8 devices.

Arguments: a folder with the initial variables, and the beginning of the names of the files that
take the arrays after the step, one for each mesh.
"""

import sys
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
from ml_collections import ConfigDict

from tests.shrunk import get_config, quick_compilation
from vos_jax.checkpoint_folder import import_variables
from vos_jax.data.pipeline import Examples
from vos_jax.systems.build import build_model
from vos_jax.train.objective import make_objective
from vos_jax.train.partition import build_mesh, shard_batch
from vos_jax.train.setup import begin_training

ROWS = 8
MESHES = {"data": (8, 1), "fsdp": (1, 8)}


def sgd_config() -> ConfigDict:
    """Plain momentum, whose buffer is the gradient after the first step."""
    config = get_config()
    config.optim.update({"name": "sgd", "clip": "none", "learning_rate": 1e-3})
    return config


def batch_of(config: ConfigDict, rows: int) -> dict[str, np.ndarray]:
    """The first training examples of the config's sources."""
    examples = Examples.of(config.data, config.seed)
    chosen = [examples.example(i) for i in range(rows)]
    return {key: np.stack([e[key] for e in chosen]) for key in ("frames", "masks", "valid")}


def build(config: ConfigDict, variables: dict, data: int, fsdp: int):
    """(state placed on a mesh, train step, mesh)."""
    config.mesh.update({"data": data, "fsdp": fsdp})
    mesh = build_mesh(config.mesh)
    objective = make_objective(build_model(config.model), config.train, config.loss)
    state, step = begin_training(config, objective, variables, mesh, min_size=16)
    return state, step, mesh


def after_one_step(variables: dict, data: int, fsdp: int) -> dict[str, np.ndarray]:
    """Every array of the state and the losses after one step: path -> array.

    With the key "split": how many arrays of the state lie in parts on the devices.
    """
    config = sgd_config()
    state, step, mesh = build(config, variables, data, fsdp)
    state, metrics = step(state, shard_batch(batch_of(config, ROWS), mesh))
    tree = {"state": state, "losses": metrics["losses"]}
    named = jax.tree_util.tree_leaves_with_path(tree)
    arrays = {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in named}
    arrays["split"] = np.sum([not leaf.is_fully_replicated for _, leaf in named])
    return arrays


def main(folder: str, out: str) -> None:
    variables, _ = import_variables(folder)

    def save(name):
        np.savez(f"{out}_{name}.npz", **after_one_step(variables, *MESHES[name]))

    with quick_compilation(), ThreadPoolExecutor() as pool:  # it is compiling that takes time
        list(pool.map(save, MESHES))


if __name__ == "__main__":
    main(*sys.argv[1:])
