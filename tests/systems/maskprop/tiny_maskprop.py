"""A MaskProp that compiles in seconds, and its losses on 1 and on 8 devices.

Run as a program (by test_maskprop) it prints one JSON object: devices -> parts of the losses, and
the largest gradient and difference of gradients.
"""

import json

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from tests.tiny import lively, quick_compilation
from vos_jax.systems.maskprop.model import MaskProp
from vos_jax.systems.vis_base import Inputs

CANVAS, SLOTS, OBJECTS = (64, 64), 3, 3


def tiny_maskprop(**fields):
    """The module and lively variables."""
    small = dict(
        classes=2,
        depth=18,
        width=0.1,
        features=8,
        hidden=8,
        mask_depth=1,
        pre_nms=8,
        post_nms=8,
        max_detections=SLOTS,
        train_proposals=8,
        anchor_samples=16,
        box_samples=8,
        canvas=CANVAS,
        image_scale=(0, 0),
        branch_channels=8,
        offset_channels=8,
        refined_side=16,
        refinement_channels=2,
    )
    model = MaskProp(**{**small, **fields})
    size = jnp.array([CANVAS])
    inputs = Inputs(jnp.zeros((1, *CANVAS, 3)), size, jnp.ones((1, 2)))
    shapes = jax.eval_shape(model.init, jax.random.key(0), inputs)
    return model, lively(shapes)


def batch(videos, seed=0):
    """Examples of three frames with rectangles that move, one of them absent at times."""
    rng = np.random.default_rng(seed)
    shape = videos, 3, OBJECTS
    corners = rng.uniform(0, 24, (videos, 1, OBJECTS, 2)) + rng.uniform(0, 6, (*shape, 2))
    boxes = np.float32(np.concatenate([corners, corners + 30], axis=3).round())
    y, x = np.mgrid[: CANVAS[0], : CANVAS[1]] + 0.5
    left, top, right, bottom = (boxes[..., k, None, None] for k in range(4))
    valid = np.ones(shape, bool)
    valid[0, 2, 1] = valid[:, 0, 2] = False
    masks = (x > left) & (x < right) & (y > top) & (y < bottom) & valid[..., None, None]
    frames = np.float32(rng.uniform(0, 255, (videos, 3, *CANVAS, 3)))
    classes = rng.integers(1, 3, (videos, OBJECTS)).astype(np.int32)
    boxes *= valid[..., None]  # no area, as examples have it
    size = np.tile(np.int32(CANVAS), (videos, 1))
    arrays = {"frames": frames, "size": size, "boxes": boxes, "masks": masks}
    return {**arrays, "valid": valid, "classes": classes}


def losses(model, rows, key, **settings):
    """The losses of each example, and their parts."""
    return model.losses(rows, key, jnp.int32(0), **settings)


def main() -> None:
    model, variables = tiny_maskprop()

    def loss(params, rows):
        arguments = {**variables, "params": params}, rows, jax.random.key(0)
        found, parts = model.apply(*arguments, method=losses, track_weight=1.0)
        return found.mean(), parts

    results, gradients = {}, []
    for devices in (1, 8):
        mesh = jax.make_mesh((devices,), ("data",), axis_types=(AxisType.Auto,))
        copied, split = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in ((), ("data",)))
        step = jax.jit(jax.grad(loss, has_aux=True), in_shardings=(copied, split))
        gradient, found = step(variables["params"], batch(8))
        results[str(devices)] = {name: np.asarray(part).tolist() for name, part in found.items()}
        gradients.append(jax.device_get(gradient))
    pairs = list(zip(*map(jax.tree.leaves, gradients), strict=True))
    results["difference"] = max(float(np.abs(a - b).max()) for a, b in pairs)
    results["largest"] = max(float(np.abs(a).max()) for a, _ in pairs)
    print(json.dumps(results))


if __name__ == "__main__":
    with quick_compilation():
        main()
