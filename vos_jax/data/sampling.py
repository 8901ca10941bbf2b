"""Which frames of a video make one training example.

CHOOSERS maps the name in a config to a function (video, length, rng) -> `length` frame indices.
"""

import numpy as np

from vos_jax.data.clip import VOID, Video, pixel_counts

TRIES = 5  # of CFBI's draws: of a reference with foreground, and of a clip whose objects it shows
FOREGROUND = 200  # pixels that such a reference has more than


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
    Raises RejectedClip below `length` annotated frames, ValueError where length is below 2.
    """
    annotated = _annotated(video, length, "reference_and_run", length)
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
    Raises RejectedClip below `length` annotated frames, ValueError where length is below 2.
    """
    annotated = _annotated(video, length, "ordered", length)
    widest = min(max_gap, (len(annotated) - 1) // (length - 1))
    places = np.concatenate([[0], np.cumsum(rng.integers(1, widest + 1, length - 1))])
    start = rng.integers(len(annotated) - places[-1])
    return [int(annotated[start + place]) for place in places]


def still(video: Video, length: int, rng: np.random.Generator, max_gap: int = 1) -> list[int]:
    """One annotated frame, `length` times; warping its copies makes a clip (STM, stage 1).

    Raises RejectedClip for a video without annotation.
    """
    annotated = _annotated(video, length, "still", 1, shortest=1)
    return [int(rng.choice(annotated))] * length


def reference_and_sequence(
    video: Video, length: int, rng: np.random.Generator, max_gap: int = 1
) -> list[int]:
    """A reference frame anywhere, then `length - 1` frames that the reference tells apart.

    CFBI training: time runs backwards in half of the clips; each frame of the sequence is
    1..max_gap annotated frames after the one before, independently; a sequence that leaves the
    video comes back from its end. The reference is drawn up to 5 times until it has more than 200
    pixels of objects, and everything but the direction up to 5 times until every object of the
    sequence is in the reference; the fifth draw is taken as it is (what the reference does not show
    becomes background).
    Raises RejectedClip below 2 annotated frames, ValueError where length is below 2.
    """
    annotated = _annotated(video, length, "reference_and_sequence", 2)
    if rng.random() < 0.5:
        annotated = annotated[::-1]
    sizes = {}

    def areas(t: int) -> np.ndarray:
        """Pixels of each object in frame t, by id."""
        if t not in sizes:
            sizes[t] = pixel_counts(video.mask(t))
            sizes[t][[0, VOID]] = 0
        return sizes[t]

    for _ in range(TRIES):
        places = np.concatenate([[0], np.cumsum(rng.integers(1, max_gap + 1, length - 2))])
        places += rng.integers(max(len(annotated) - places[-1], 1))
        sequence = [int(t) for t in annotated[_reflected(places, len(annotated))]]
        for _ in range(TRIES):
            reference = int(rng.choice(annotated))
            if areas(reference).sum() > FOREGROUND:
                break
        if all((areas(reference) > 0)[areas(t) > 0].all() for t in sequence):
            break
    return [reference, *sequence]


def _annotated(video: Video, length: int, name: str, needed: int, shortest: int = 2) -> np.ndarray:
    """Indices of the annotated frames, at least `needed`, from which `length` are to be chosen.

    Raises RejectedClip below `needed`, ValueError where length is below `shortest`.
    """
    if length < shortest:
        raise ValueError(
            f"{name} chooses {shortest} frames or more, but config.data.clip.frames is {length}"
        )
    annotated = np.flatnonzero(video.annotated)
    if len(annotated) < needed:
        raise RejectedClip(
            f"{video.dataset}/{video.name} has {len(annotated)} annotated frames, {name} needs"
            f" {needed}"
        )
    return annotated


def _reflected(places: np.ndarray, count: int) -> np.ndarray:
    """Places 0, 1, ... on a path that turns round at 0 and count - 1."""
    places = places % (2 * (count - 1))
    return np.minimum(places, 2 * (count - 1) - places)


CHOOSERS = {
    "reference_and_run": reference_and_run,
    "ordered": ordered,
    "still": still,
    "reference_and_sequence": reference_and_sequence,
}
