"""Videos of squares that move, drawn when they are asked for."""

import numpy as np

from vos_jax.data.clip import VOID, Objects, Video

SIZE = (24, 32)
COLOURS = np.array([[90, 90, 90], [250, 20, 20], [20, 20, 250]], np.uint8)


def moving_squares(
    name, ids=(1, 2), length=6, size=SIZE, appear=(0, 0), scored=None, void=False, enlarged=1
):
    """Squares that move 2 pixels a frame; object k is given at appear[k], scored afterwards.

    enlarged: each pixel becomes so many in both directions.
    """
    labels = np.zeros((length, *size), np.uint8)
    for t in range(length):
        for k, i in enumerate(ids):
            if t >= appear[k]:
                labels[t, 4 + 10 * k : 12 + 10 * k, 2 + 2 * t : 12 + 2 * t] = i
    table = np.zeros((256, 3), np.uint8)
    table[[0, *ids]] = COLOURS[: len(ids) + 1]
    labels = labels.repeat(enlarged, axis=1).repeat(enlarged, axis=2)
    frames, size = table[labels], labels.shape[1:]
    if void:
        labels[:, :2] = VOID
    given, later = np.zeros((length, len(ids)), bool), np.zeros((length, len(ids)), bool)
    for k in range(len(ids)):
        given[appear[k], k] = True
        later[appear[k] + 1 : length - 1, k] = True
    return Video(
        name,
        "test",
        [f"{t:05d}" for t in range(length)],
        ["mask"] * length,
        lambda t: frames[t],
        lambda t: labels[t],
        lambda: Objects(np.array(ids), given, later if scored is None else scored, None, size),
    )
