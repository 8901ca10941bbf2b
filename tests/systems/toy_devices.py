"""Training steps of the recurrent toy on meshes of 1 and of 8 devices; test_seam runs this file.

Prints one JSON object: mesh -> losses of two steps, the largest difference of the parameters and
statistics after them from those of one device, and the shapes that devices gather from each other.
"""

import json
import re

import jax
import numpy as np

from tests.systems.toys import Recurrent
from tests.tiny import lively, quick_compilation
from tests.train.toy import toy_config
from vos_jax.systems.build import variable_shapes
from vos_jax.train.objective import make_objective
from vos_jax.train.partition import build_mesh, shard_batch
from vos_jax.train.setup import begin_training

ROWS = 8


def trained(data: int, fsdp: int):
    config = toy_config(batch=ROWS, num_given=0, teacher_forcing_steps=1)
    config.optim.update({"gradient_multipliers": (), "weight_decay": 0.0})
    config.mesh.update({"data": data, "fsdp": fsdp})
    model = Recurrent()
    variables = lively(variable_shapes(model), seed=3)
    mesh = build_mesh(config.mesh)
    objective = make_objective(model, config.train, {})
    state, step = begin_training(config, objective, variables, mesh, min_size=16)
    rng, losses = np.random.default_rng(0), []
    for _ in range(2):
        frames = rng.integers(0, 255, (ROWS, 3, 16, 24, 3)).astype(np.float32)
        labels = np.repeat(rng.integers(0, 3, (ROWS, 1, 16, 24)), 3, axis=1).astype(np.uint8)
        batch = {"frames": frames, "labels": labels, "valid": np.ones((ROWS, 2), bool)}
        state, metrics = step(state, shard_batch(batch, mesh))
        losses.append(jax.device_get(metrics["losses"]).tolist())
    compiled = step.lower(state, shard_batch(batch, mesh)).compile().as_text()
    moves = r"= \w+\[([\d,]*)\]\S* (?:all-gather|all-to-all|collective-permute)"
    gathered = [[*map(int, shape.split(","))] for shape in re.findall(moves, compiled)]
    return losses, jax.device_get((state.params, state.batch_stats)), gathered


def main() -> None:
    losses, expected, _ = trained(1, 1)
    results = {"1x1": {"losses": losses, "shapes": [x.shape for x in jax.tree.leaves(expected)]}}
    for data, fsdp in ((8, 1), (2, 4)):
        losses, found, gathered = trained(data, fsdp)
        pairs = zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True)
        difference = max(float(np.abs(a - b).max()) for a, b in pairs)
        found = {"losses": losses, "difference": difference, "gathered": gathered}
        results[f"{data}x{fsdp}"] = found
    print(json.dumps(results))


if __name__ == "__main__":
    with quick_compilation():
        main()
