"""A Mask R-CNN and a MaskTrack R-CNN that compile in seconds, and what they are trained with."""

import jax
import numpy as np

from tests.tiny import lively
from vos_jax.systems.mask_rcnn.model import Features
from vos_jax.systems.vis_base import VISModel

TINY = dict(
    classes=3,
    depth=18,
    width=0.125,
    features=8,
    hidden=16,
    mask_depth=1,
    norm_epsilon=1e-5,
    image_scale=(96, 64),
    canvas=(64, 96),
    pre_nms=16,
    post_nms=12,
    max_detections=5,
    train_proposals=16,
    anchor_samples=16,
    box_samples=8,
    score_threshold=0.01,
)


def no_features(videos: int) -> Features:
    """Features without a level: what a memory that holds no map of them begins with."""
    return Features((), None, None, np.zeros((videos, 2), np.int32), None)


def tiny_variables(model: VISModel, seed: int = 3) -> dict:
    """Lively ones, with which objects are found in noise."""
    inputs = jax.tree.map(lambda x: x[None], model.preprocess(np.zeros((64, 96, 3), np.uint8)))
    return lively(jax.eval_shape(model.init, jax.random.key(0), inputs), seed)


def training_batch(rows: int, slots: int = 3) -> dict[str, np.ndarray]:
    """Pairs of frames with squares that move; the last slot is empty, a frame has a border."""
    rng = np.random.default_rng(0)
    batch = dict(
        frames=np.float32(rng.integers(0, 255, (rows, 2, 64, 96, 3))),
        size=np.int32([(64, 96 - 16 * (i % 2)) for i in range(rows)]),
        boxes=np.zeros((rows, 2, slots, 4), np.float32),
        masks=np.zeros((rows, 2, slots, 64, 96), bool),
        classes=np.int32([[1 + (i + k) % 3 for k in range(slots)] for i in range(rows)]),
        valid=np.broadcast_to(np.arange(slots) < slots - 1, (rows, 2, slots)).copy(),
    )
    for i, t, k in np.ndindex(rows, 2, slots - 1):
        x, y = 5 + 25 * k + 3 * t + i % 4, 8 + 12 * k + 2 * t
        batch["boxes"][i, t, k] = (x, y, x + 19, y + 23)
        batch["masks"][i, t, k, y : y + 24, x : x + 20] = True
    return batch
