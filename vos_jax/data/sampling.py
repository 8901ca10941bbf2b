"""Which frames of a video make one training example.

CHOOSERS maps the name in a config to a function (video, length, rng) -> `length` frame indices.
"""

import numpy as np

from vos_jax.data.clip import Video


class RejectedClip(ValueError):
    """This draw cannot be trained on (not a broken file): the pipeline draws again."""


def reference_and_pair(
    video: Video, length: int, rng: np.random.Generator, max_gap: int = 1
) -> list[int]:
    """A reference frame anywhere, then a previous and a query frame.

    FEELVOS training: the reference is uniform over the annotated frames, the pair's start uniform
    over 0..T-3 of them, so the last frame is never a query. T counts annotated frames: in
    YouTube-VOS the pair is five video frames apart. The reference may be later than the pair.
    The pair is 1..max_gap annotated frames apart, uniformly (FEELVOS: 1).
    Errors: RejectedClip below 3 annotated frames, ValueError where length is not 3.
    """
    if length != 3:
        raise ValueError(
            f"reference_and_pair chooses 3 frames, but config.data.clip.frames is {length}"
        )
    annotated = np.flatnonzero(video.annotated)
    if len(annotated) < 3:
        raise RejectedClip(
            f"{video.dataset}/{video.name} has {len(annotated)} annotated frames,"
            " reference_and_pair needs 3"
        )
    reference = rng.integers(len(annotated))
    gap = rng.integers(1, min(max_gap, len(annotated) - 2) + 1)
    start = rng.integers(len(annotated) - 1 - gap)
    return [int(annotated[t]) for t in (reference, start, start + gap)]


CHOOSERS = {"reference_and_pair": reference_and_pair}
