"""Losses of a tiny MaskTrack R-CNN on one device and on 8 fake ones.

Argument: the .npz that takes the arrays, "one/..." and "eight/...".
"""

import sys

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from tests.systems.mask_rcnn.tiny import TINY, tiny_variables, training_batch
from tests.tiny import quick_compilation
from vos_jax.systems.masktrack_rcnn.model import MaskTrackRCNN


def main(out: str) -> None:
    model, batch = MaskTrackRCNN(**TINY), training_batch(8)
    variables, arrays = tiny_variables(model), {}

    @jax.jit
    def losses(batch):
        total, parts = model.apply(variables, batch, jax.random.key(0), 0, method=model.losses)
        return parts | {"total": total}

    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    placed = {
        "one": batch,
        "eight": jax.device_put(batch, NamedSharding(mesh, P("data"))),
    }
    with quick_compilation():
        for name, rows in placed.items():
            for part, value in losses(rows).items():
                arrays[f"{name}/{part}"] = np.asarray(value)
    np.savez(out, **arrays)


if __name__ == "__main__":
    main(sys.argv[1])
