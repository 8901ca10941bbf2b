"""Which objects of a training clip take part, and their new numbers 1..n (host side, numpy)."""

from dataclasses import dataclass

import cv2
import numpy as np

from vos_jax.data.clip import VOID, pixel_counts
from vos_jax.data.sampling import RejectedClip

STRIDE = 4  # of the grid on which labels are matched
MIN_PIXELS = 10  # of every label of the reference on that grid
RULES = ("matched", "visible", "largest")


@dataclass(frozen=True)
class Choice:
    """How the objects of a clip are chosen by its first frame, the reference.

    rule: "matched" (FEELVOS): every label of the reference, background included, must cover at
    least 10 pixels of its stride-4 grid, or the clip is rejected. "visible" (CFBI): the objects
    with more than `pixels` pixels. "largest" (RSIS): of these the largest. The first two draw among
    more than there is room for. merge: all objects are one, the foreground.
    """

    rule: str = "matched"
    pixels: int = 100
    merge: bool = False


def choose_objects(
    masks: np.ndarray, rng: np.random.Generator, max_objects: int, choice: Choice
) -> tuple[np.ndarray, np.ndarray]:
    """Renumber the chosen objects to 1..n and forget all others, which become background.

    masks: uint8 [T, h, w] with the video's ids. New numbers follow the order of the old ids.
    Returns uint8 [T, h, w] with 0..n and 255, and the old ids [n] (of merged objects 1).
    Raises RejectedClip where the reference has no object that fits the rule. Deviation from CFBI,
    whose trainer takes such a clip: the loss of the background alone is 0, so that it would only
    leave its place in the batch empty.
    """
    if choice.merge:
        masks = np.where(masks == VOID, masks, masks > 0).astype(np.uint8)
    ids = _matched(masks[0]) if choice.rule == "matched" else visible(masks[0], choice.pixels)
    if len(ids) == 0:
        raise RejectedClip(
            f"no object of the cropped reference covers more than {choice.pixels} pixels"
        )
    if len(ids) > max_objects and choice.rule == "largest":
        sizes = pixel_counts(masks[0])[ids]
        ids = np.sort(ids[np.argsort(-sizes, kind="stable")[:max_objects]])
    elif len(ids) > max_objects:
        ids = np.sort(rng.choice(ids, max_objects, replace=False))
    table = np.zeros(256, np.uint8)
    table[ids] = np.arange(1, len(ids) + 1)
    table[VOID] = VOID
    return cv2.LUT(masks.reshape(-1, masks.shape[-1]), table).reshape(masks.shape), ids


def visible(labels: np.ndarray, pixels: int) -> np.ndarray:
    """Ids of the objects with more than `pixels` pixels, ascending."""
    counts = pixel_counts(labels)
    counts[[0, VOID]] = 0
    return np.flatnonzero(counts > pixels)


def _matched(reference: np.ndarray) -> np.ndarray:
    labels = np.flatnonzero(pixel_counts(reference)[:VOID])
    if len(labels) < 2 or labels[0] != 0:
        raise RejectedClip("the cropped reference does not show both background and an object")
    rows, columns = (nearest_index(n, (n - 1) // STRIDE + 1) for n in reference.shape)
    counts = pixel_counts(reference[np.ix_(rows, columns)])
    if (counts[labels] < MIN_PIXELS).any():
        raise RejectedClip(
            f"a label of the cropped reference covers fewer than {MIN_PIXELS} pixels at stride"
            f" {STRIDE}"
        )
    return labels[1:]


def nearest_index(n: int, m: int) -> np.ndarray:
    """Source index [m] of nearest-neighbour resizing n -> m, align_corners=True, half rounds up.

    The same as ops.resize.nearest_indices, without JAX, which processes that read data do without.
    """
    step = np.float32(n - 1) / np.float32(max(m - 1, 1))
    # the halves are added in float64: in float32, 0.49999997 + 0.5 is 1
    index = np.floor((np.arange(m, dtype=np.float32) * step).astype(np.float64) + 0.5)
    return np.minimum(index.astype(int), n - 1)
