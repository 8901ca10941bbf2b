"""Small programs on 8 devices, and what a device holds of a run; test_experiments runs this file.

Prints one JSON object: program -> what it sends; "held" -> system -> bytes of parameters and
optimizer on a device of eight, and of all of them.
"""

import json

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from vos_jax.benchmarks.collectives import collectives
from vos_jax.benchmarks.training import Step, step_config
from vos_jax.systems.table import systems_of


def sent(function, mesh, out):
    rows = NamedSharding(mesh, PartitionSpec("data"))
    compiled = jax.jit(function, in_shardings=rows, out_shardings=NamedSharding(mesh, out))
    return collectives(compiled.lower(jnp.ones((64, 16))).compile().as_text())


def held(system):
    config = step_config(system, "paper", batch=8)
    config.mesh.update({"data": 1, "fsdp": 8})
    step = Step.of(config)
    return sum(step.bytes_per_device().values()), sum(step.whole_bytes().values())


def main() -> None:
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    split, copied = PartitionSpec("data"), PartitionSpec()

    def repeated(x):
        def add(_, carry):
            return carry + jnp.sin(x * carry).sum(axis=0)

        return lax.fori_loop(0, 5, add, jnp.ones(16))

    results = {
        "sum": sent(lambda x: x.sum(axis=0), mesh, copied),
        "gather": sent(lambda x: 2 * x, mesh, copied),
        "nothing": sent(lambda x: 2 * x, mesh, split),
        "loop": sent(repeated, mesh, copied),
        "held": {system: held(system) for system in systems_of("vos")},
    }
    print(json.dumps(results))


if __name__ == "__main__":
    main()
