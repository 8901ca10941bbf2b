"""Memory read over 2 x 4 devices (videos x memory frames); test_memory_read runs this file.

Arguments: an .npz with query, keys, values, valid and weights, and the .npz that takes values and
gradients of the read, with top_k of 0 and 5.
"""

import sys
from functools import partial

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from vos_jax.ops.memory_read import memory_read


def main(source: str, out: str) -> None:
    arrays = dict(np.load(source))
    mesh = jax.make_mesh((2, 4), ("data", "memory"), axis_types=(AxisType.Auto,) * 2)
    split = NamedSharding(mesh, PartitionSpec("data", None, "memory"))
    weights, valid = arrays["weights"], jax.device_put(arrays["valid"], split)
    inputs = arrays["query"], *(jax.device_put(arrays[k], split) for k in ("keys", "values"))
    results = {}
    for top_k in (0, 5):
        read = partial(memory_read, valid=valid, top_k=top_k, mesh=mesh, axis="memory")
        found = jax.jit(partial(with_gradients, read))(weights, *inputs)
        names = ("read", "query", "keys", "values")
        results |= {f"{name}_{top_k}": x for name, x in zip(names, found, strict=True)}
        results[f"parts_{top_k}"] = len({str(s.index) for s in found[2].addressable_shards})
    np.savez(out, **results)


def with_gradients(read, weights, *inputs):
    result, pull = jax.vjp(read, *inputs)
    return result, *pull(weights)


if __name__ == "__main__":
    main(*sys.argv[1:])
