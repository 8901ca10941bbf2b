"""Ten training steps of a tiny system in float64 on 8 fake devices; test_meshes runs this file.

Arguments: the system and meshes such as 2x4. Prints one JSON object: mesh -> the losses of all
rows and steps. In float32 rounding flips winners, labels and ReLUs, and after a few steps the
losses of two right programs are far apart. The systems work in float32 wherever sums and distances
must be exact, whatever their dtype; here that name means float64, before anything reads it.
"""

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np

jax.config.update("jax_enable_x64", True)
jnp.float32 = jnp.float64

from tests import tiny  # noqa: E402
from tests.accelerator import accelerator_branches  # noqa: E402
from tests.systems.meshes import ROWS, Step  # noqa: E402
from vos_jax.train.partition import shard_batch  # noqa: E402

STEPS = 10


def main(system: str, *meshes: str) -> None:
    config = tiny.get_config(system)
    config.optim.update({"name": "sgd", "clip": "none", "learning_rate": 1e-3})
    with config.ignore_type():
        config.model.dtype = "float64"
    batch = tiny.examples(config, ROWS)
    batch["frames"] = batch["frames"].astype(np.float64)
    losses = {}
    for name in ("1x1", *meshes):
        step = Step(config, *map(int, name.split("x")), batch)
        assert all(x.dtype == np.float64 for x in jax.tree.leaves(step.state.params))
        state, losses[name] = step.state, []
        for _ in range(STEPS):
            state, metrics = step.step(state, shard_batch(batch, step.mesh))
            assert metrics["losses"].dtype == np.float64
            losses[name].append(np.asarray(metrics["losses"]).tolist())
    print(json.dumps(losses))


if __name__ == "__main__":
    assert len(jax.devices()) == 8
    with tiny.quick_compilation(), accelerator_branches():
        main(*sys.argv[1:])
