"""A first training step of a tiny system on meshes of 8 fake devices; test_meshes runs this file.

Arguments: the system and meshes such as 2x4. Prints one JSON object: mesh -> distances of losses
and gradients from those of one device, and what the devices send each other; "1x1" -> losses, and
the largest distances that frames changed by a millionth make there; "parameters" -> their shapes.
"""

import json
import sys
from typing import Any

import jax
import numpy as np

from tests import tiny
from tests.accelerator import accelerator_branches
from vos_jax.benchmarks.collectives import collectives
from vos_jax.systems.build import build_model, variable_shapes
from vos_jax.train.objective import make_objective
from vos_jax.train.partition import build_mesh, shard_batch
from vos_jax.train.setup import begin_training

ROWS = 8
CHANGES = 6  # sets of changed frames


class Step:
    """The compiled first step on a mesh: plain momentum, whose buffer is the gradient after it."""

    def __init__(self, config: Any, data: int, fsdp: int, batch: dict[str, np.ndarray]):
        config.mesh.update({"data": data, "fsdp": fsdp})
        model, self.mesh = build_model(config.model), build_mesh(config.mesh)
        objective = make_objective(model, config.train, config.loss)
        variables = tiny.lively(variable_shapes(model))
        self.state, step = begin_training(config, objective, variables, self.mesh, min_size=16)
        self.shapes = [x.shape for x in jax.tree.leaves(self.state.params)]
        self.step = step.lower(self.state, shard_batch(batch, self.mesh)).compile()

    def __call__(self, batch: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Losses [B], and all gradients as one vector."""
        state = jax.tree.map(lambda x: x.copy(), self.state)  # the step donates it
        state, metrics = self.step(state, shard_batch(batch, self.mesh))
        traces = [
            np.asarray(x).ravel()
            for path, x in jax.tree_util.tree_leaves_with_path(state.opt_state)
            if ".trace" in jax.tree_util.keystr(path)
        ]
        return np.asarray(metrics["losses"]), np.concatenate(traces)


def distances(expected: tuple, found: tuple) -> dict[str, float]:
    """Largest difference of a loss, and norm of that of the gradients, as shares of `expected`."""
    (losses, gradient), (others, other) = expected, found
    apart = float(np.linalg.norm(gradient - other) / np.linalg.norm(gradient))
    return {"losses": float(np.abs(others / losses - 1).max()), "gradients": apart}


def main(system: str, *meshes: str) -> None:
    config = tiny.get_config(system)
    config.optim.update({"name": "sgd", "clip": "none", "learning_rate": 1e-3})
    batch = tiny.examples(config, ROWS)
    single = Step(config, 1, 1, batch)
    expected = single(batch)
    changes = []
    for seed in range(CHANGES):
        noise = np.random.default_rng(seed).choice([-1e-6, 1e-6], batch["frames"].shape)
        frames = (batch["frames"] * (1 + noise)).astype(np.float32)
        changes.append(distances(expected, single({**batch, "frames": frames})))
    largest = {name: max(change[name] for change in changes) for name in changes[0]}
    one = {"losses": expected[0].tolist(), "changed": largest}
    results = {"1x1": one, "parameters": single.shapes}
    for name in meshes:
        step = Step(config, *map(int, name.split("x")), batch)
        sent = [(one.kind, one.shape) for one in collectives(step.step.as_text())]
        results[name] = {**distances(expected, step(batch)), "sent": sent}
    print(json.dumps(results))


if __name__ == "__main__":
    assert len(jax.devices()) == 8
    with tiny.quick_compilation(), accelerator_branches():
        main(*sys.argv[1:])
