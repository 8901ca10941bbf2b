"""Which frames of a video make one training example.

CHOOSERS maps the name in a config to a function (video, length, rng) -> `length` frame indices.
"""

import numpy as np

from vos_jax.data.clip import Video


class RejectedClip(ValueError):
    """This draw cannot be trained on (not a broken file): the pipeline draws again."""


def reference_and_run(
    video: Video, length: int, rng: np.random.Generator, max_gap: int = 1
) -> list[int]:
    """A reference frame anywhere, then a run of `length - 1` frames in order.

    FEELVOS training is a run of two, previous and query frame: the reference is uniform over the T
    annotated frames, the run's start uniform over those that leave the video's last frame out, as
    in the release (0..T-3 for neighbours). In YouTube-VOS neighbours are five video frames apart.
    The reference may lie anywhere, also after the run. The frames of a run are equally spaced,
    1..max_gap annotated frames apart, uniformly (FEELVOS: 1); a short video narrows the choice.
    Errors: RejectedClip below `length` annotated frames, ValueError where length is below 2.
    """
    if length < 2:
        raise ValueError(
            f"reference_and_run chooses 2 frames or more, but config.data.clip.frames is {length}"
        )
    annotated = np.flatnonzero(video.annotated)
    if len(annotated) < length:
        raise RejectedClip(
            f"{video.dataset}/{video.name} has {len(annotated)} annotated frames,"
            f" reference_and_run needs {length}"
        )
    steps = length - 2
    widest = (len(annotated) - 2) // steps if steps else 1
    reference = rng.integers(len(annotated))
    gap = rng.integers(1, min(max_gap, widest) + 1)
    start = rng.integers(len(annotated) - 1 - gap * steps)
    return [int(annotated[t]) for t in (reference, *range(start, start + gap * steps + 1, gap))]


def ordered(video: Video, length: int, rng: np.random.Generator, max_gap: int = 1) -> list[int]:
    """`length` frames in the order of time, each 1..max_gap annotated frames after the one before.

    STM training: the gaps are uniform and independent, the first frame uniform over those that
    leave room. A video too short for max_gap narrows the gaps.
    Errors: RejectedClip below `length` annotated frames, ValueError where length is below 2.
    """
    if length < 2:
        raise ValueError(
            f"ordered chooses 2 frames or more, but config.data.clip.frames is {length}"
        )
    annotated = np.flatnonzero(video.annotated)
    if len(annotated) < length:
        raise RejectedClip(
            f"{video.dataset}/{video.name} has {len(annotated)} annotated frames, ordered needs"
            f" {length}"
        )
    widest = min(max_gap, (len(annotated) - 1) // (length - 1))
    places = np.concatenate([[0], np.cumsum(rng.integers(1, widest + 1, length - 1))])
    start = rng.integers(len(annotated) - places[-1])
    return [int(annotated[start + place]) for place in places]


def still(video: Video, length: int, rng: np.random.Generator, max_gap: int = 1) -> list[int]:
    """One annotated frame, `length` times; warping its copies makes a clip (STM, stage 1).

    Errors: RejectedClip for a video without annotation.
    """
    annotated = np.flatnonzero(video.annotated)
    if len(annotated) == 0:
        raise RejectedClip(f"{video.dataset}/{video.name} has no annotated frame")
    return [int(rng.choice(annotated))] * length


CHOOSERS = {"reference_and_run": reference_and_run, "ordered": ordered, "still": still}
