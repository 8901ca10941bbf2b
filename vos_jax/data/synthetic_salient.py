"""synthetic-salient-v1: one object moves through a clip, others stand still and come and go.

Embedded clips of the family of synthetic-v1 (data/synthetic.py), for systems that find their object
themselves. All shapes are cut from the same textures, so a frame alone does not tell the object
from what distracts from it; what does is that the object is in every frame and moves, while a
distractor keeps its place and is seen in about half of the frames. Frame t of a clip is a pure
function of (split, index, t); numpy only and in float64, so that every machine draws the same.

The object is id 1; everything follows the DAVIS rule (scored in frames 1..T-2).
"""

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from vos_jax.data.clip import Video
from vos_jax.data.synthetic import (
    BACKGROUND_TILE,
    HEIGHT,
    MIN_VISIBLE,
    NUM_FRAMES,
    PAN,
    SPLITS,
    WIDTH,
    Scene,
    draw_background,
    drawn_videos,
    exposed,
    mean_colours,
    paint,
    random_direction,
    random_shape,
    random_texture,
)

# Frozen: changing any of these changes synthetic-salient-v1.
NAME = "synthetic-salient-v1"
TAG = 20190  # first word of every seed
DISTRACTORS = (2, 4)  # 2 or 3 of them
SMALLER = 0.8  # a distractor's radius, as a share of the object's family
PERIOD = (6, 11)  # frames after which a distractor comes again, 6..10
SEEN = (0.4, 0.6)  # share of them in which it is there


@dataclass(frozen=True)
class Visits:
    """When a distractor is there: in the first `seen` of every `period` frames, from `phase` on."""

    period: int
    seen: int
    phase: int

    def __call__(self, t: int) -> bool:
        return (t + self.phase) % self.period < self.seen


def salient_videos(
    split: str, count: int | None = None, num_frames: int = NUM_FRAMES
) -> list[Video]:
    """The first `count` clips of the "train" or "test" split as Video objects.

    Raises ValueError for an unknown split, fewer than one clip or 3 frames, or more than MOST.
    """
    return drawn_videos(NAME, _frame, _mask, split, count, num_frames)


def _frame(split: str, index: int, t: int) -> np.ndarray:
    scene, _ = _scene(split, index)
    return exposed(_drawn(split, index, t)[0], scene, t)


def _mask(split: str, index: int, t: int) -> np.ndarray:
    return _drawn(split, index, t)[1].copy()


@lru_cache(maxsize=16)  # the mask of a frame is usually asked for right after its picture
def _drawn(split: str, index: int, t: int) -> tuple[np.ndarray, np.ndarray]:
    """Noise-free image float64 [H, W, 3] and labels uint8 [H, W] of one frame."""
    scene, visits = _scene(split, index)
    image = draw_background(scene, t)
    labels = np.zeros((HEIGHT, WIDTH), np.uint8)
    *distractors, salient = scene.shapes
    for shape, visit in zip(distractors, visits, strict=True):
        if visit(t):
            paint(shape, t, image, np.zeros_like(labels))
    paint(salient, t, image, labels)
    return image, labels


@lru_cache(maxsize=512)
def _scene(split: str, index: int) -> tuple[Scene, tuple[Visits, ...]]:
    """Shapes from back to front, the object last, and when the others are there.

    Drawn until the object is well visible in frame 0.
    """
    seed = (TAG, SPLITS[split], index)
    rng = np.random.default_rng(seed)
    while True:
        scene = _random_scene(rng, seed)
        visits = tuple(_random_visits(rng) for _ in scene.shapes[:-1])
        labels = np.zeros((HEIGHT, WIDTH), np.uint8)
        paint(scene.shapes[-1], 0, np.zeros((HEIGHT, WIDTH, 3)), labels)
        if np.count_nonzero(labels) >= 4 * MIN_VISIBLE:
            return scene, visits


def _random_scene(rng: np.random.Generator, seed: tuple[int, int, int]) -> Scene:
    count = int(rng.integers(*DISTRACTORS))
    colours = mean_colours(rng, count + 2)
    salient = random_shape(rng, 1, colours[1])
    still = [_stilled(random_shape(rng, 1, colour)) for colour in colours[2:]]
    return Scene(
        seed=seed,
        shapes=(*still, salient),
        background=random_texture(rng, BACKGROUND_TILE, colours[0]),
        pan=random_direction(rng) * rng.uniform(*PAN),
        light_phase=rng.uniform(0, 2 * np.pi) + rng.uniform(-0.5, 0.5, 3),
    )


def _stilled(shape):
    """A distractor: smaller, and it neither moves nor turns nor changes its outline."""
    waves = shape.waves.copy()
    waves[:, -1] = 0.0  # their rates
    still = np.zeros(2)
    return replace(shape, velocity=still, spin=0.0, waves=waves, radius=SMALLER * shape.radius)


def _random_visits(rng: np.random.Generator) -> Visits:
    period = int(rng.integers(*PERIOD))
    seen = max(round(period * rng.uniform(*SEEN)), 1)
    return Visits(period, seen, int(rng.integers(period)))
