"""Folders of label maps as an evaluation server wants them, for the tests to spoil."""

import numpy as np

from tests.data.trees import SIZE, davis_tree, labels, youtube_tree
from vos_jax.data.masks import write_mask


def davis_results(root, split="test-dev"):
    """A DAVIS root (bear and dog, 5 frames, objects 1 and 2) and the masks of both sequences."""
    davis_tree(root / "data", split=split, masks=1)
    for name in ("bear", "dog"):
        write_masks(root / "pred" / name, {t: labels(t) for t in range(5)})
    return root / "data", root / "pred"


def youtube_results(root, split="valid"):
    """A YouTube-VOS root (object 2 from frame 0, object 7 from frame 5) and masks 0, 5, 10."""
    youtube_tree(root / "data", split)
    masks = {t: labels(t % 7, (2,) if t < 5 else (2, 7)) for t in (0, 5, 10)}
    write_masks(root / "pred" / "0a1b", masks)
    return root / "data", root / "pred"


def write_masks(folder, masks) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for t, mask in masks.items():
        write_mask(folder / f"{t:05d}.png", mask)


def filled(*ids, size=SIZE) -> np.ndarray:
    """A row of every id on background, uint8 [H, W]."""
    mask = np.zeros(size, np.uint8)
    mask[: len(ids)] = np.array(ids, np.uint8)[:, None]
    return mask
