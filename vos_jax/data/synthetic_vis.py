"""synthetic-vis-v1: embedded clips for instances in video, made of the parts of synthetic-v1.

The class of an object is its outline and the kind of its texture: disc and fine grain, square and
stripes, star and blotches. Its identity is its mean colour, which says nothing about the class. The
clips come in four regimes by turns, which their names carry, and every table is split by them:

    slow      objects move by about a tenth of their width a frame
    fast      by more than their width: boxes of one object in two frames do not overlap
    alike     two objects of one class and colour cross
    hidden    objects pass behind a bar in front of everything, and vanish there for some frames

In the first two, some objects appear late or leave early. A frame is a pure function of (split,
index, t). An object is there in a frame where at least MIN_PIXELS of it are seen.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np

from vos_jax.data.instances import Instances, InstanceVideo
from vos_jax.data.rle import RLE, encode
from vos_jax.data.synthetic import (
    BACKGROUND_TILE,
    HEIGHT,
    MOST,
    PAN,
    TILE,
    WIDTH,
    Scene,
    Shape,
    cover,
    draw_background,
    exposed,
    paint,
    random_direction,
)

# Frozen: changing any of these changes synthetic-vis-v1.
NAME = "synthetic-vis-v1"
TAG = 20180  # first word of every seed
SPLITS = {"train": 0, "test": 1}  # second word: train and test never share a seed
REGIMES = ("slow", "fast", "alike", "hidden")  # of clip 0, 1, 2, 3, 4, ...
CLASSES = ("disc", "square", "star")
NUM_FRAMES = 12  # default clip length; births, crossings and hiding are timed for it
NUM_CLIPS = {"train": 400, "test": 40}  # default number of clips
MIN_PIXELS = 20
RADIUS = (10.0, 15.0)  # pixels, mean radius of an object
SLOW, FAST = (1.5, 3.0), (26.0, 36.0)  # pixels per frame
CROSSING_SPEED = (2.5, 4.0)
CROSSING = (4.0, 7.0)  # frame in which two objects that are alike meet
HIDDEN_FRAMES = (1, 4)  # about how long a bar hides an object
SPIN = 0.07  # radians per frame, largest rotation
WOBBLE = (0.03, 0.08)  # relative amplitude of the radius modulation
WOBBLE_RATE = (0.25, 0.55)  # radians per frame
STAR = 0.32  # relative depth of a star's five notches
LATE = EARLY = 0.25  # share of the objects that come late, and of the others that leave early
COLOURS = ((200, 80, 80), (80, 190, 90), (80, 100, 210), (205, 190, 80), (190, 90, 195),
           (80, 190, 200))  # fmt: skip
COLOUR_NOISE = 8.0  # grey levels
WAVELENGTHS = (4.0, 7.0, 11.0)  # pixels: fine grain, stripes, blotches
CONTRAST = 24.0  # grey levels, standard deviation of a texture
GREY = 118.0  # grey levels, centre of the colours of background and bar


@dataclass(frozen=True)
class VisScene:
    """All a clip is drawn from.

    scene: background, light, shapes from back to front with label k + 1 for object k. classes: from
    1, [K]. lives: first frame and the one after the last, [K]. bar: columns left, right and
    texture of what is in front of all, or None.
    """

    scene: Scene
    classes: tuple[int, ...]
    lives: tuple[tuple[int, int], ...]
    bar: tuple[int, int, np.ndarray] | None


def synthetic_vis_videos(
    split: str, count: int | None = None, num_frames: int = NUM_FRAMES
) -> list[InstanceVideo]:
    """The first `count` clips of synthetic-vis-v1's "train" or "test" split.

    Raises ValueError for an unknown split, fewer than one clip or 2 frames, or more than MOST.
    """
    if split not in SPLITS:
        raise ValueError(f"{NAME} has no split {split!r}; expected one of {sorted(SPLITS)}")
    count = NUM_CLIPS[split] if count is None else int(count)
    if not (1 <= count <= MOST and 2 <= num_frames <= MOST):
        raise ValueError(
            f"{NAME}: expected at least 1 clip of at least 2 frames, at most {MOST} of each, got"
            f" {count} clips of {num_frames} frames"
        )
    return [_video(split, index, int(num_frames)) for index in range(count)]


def regime_of(video: InstanceVideo) -> str:
    """The regime that the name of a clip carries."""
    return video.name.rsplit("-", 1)[-1]


def render(split: str, index: int, t: int) -> tuple[np.ndarray, np.ndarray]:
    """Frame t of one clip: uint8 [HEIGHT, WIDTH, 3] RGB, and uint8 [HEIGHT, WIDTH] with k + 1 where
    object k is seen.
    """
    vis = _scene(split, index)
    image = draw_background(vis.scene, t)
    labels = np.zeros((HEIGHT, WIDTH), np.uint8)
    for shape in _alive(vis, t):
        paint(shape, t, image, labels)
    if vis.bar is not None:
        left, right, texture = vis.bar
        image[:, left:right] = texture[:HEIGHT, : right - left]
        labels[:, left:right] = 0
    return exposed(image, vis.scene, t), labels


def _alive(vis: VisScene, t: int) -> list[Shape]:
    lives = (vis.lives[shape.label - 1] for shape in vis.scene.shapes)
    pairs = zip(vis.scene.shapes, lives, strict=True)
    return [shape for shape, (first, end) in pairs if first <= t < end]


@lru_cache(maxsize=64)
def _labels(split: str, index: int, t: int) -> np.ndarray:
    """The labels of `render` without the picture, in a tenth of its time."""
    vis = _scene(split, index)
    labels = np.zeros((HEIGHT, WIDTH), np.uint8)
    for shape in _alive(vis, t):
        rows, columns, part, _, _ = cover(shape, t)
        labels[rows[part >= 0.5], columns[part >= 0.5]] = shape.label
    if vis.bar is not None:
        labels[:, vis.bar[0] : vis.bar[1]] = 0
    return labels


def _video(split: str, index: int, num_frames: int) -> InstanceVideo:
    return InstanceVideo(
        name=f"{split}-{index:04d}-{REGIMES[index % len(REGIMES)]}",
        dataset=NAME,
        frame_names=[f"{t:05d}" for t in range(num_frames)],
        load_frame=partial(_frame, split, index),
        load_rles=partial(_rles, split, index, num_frames),
        describe=partial(_describe, split, index, num_frames),
        video_id=index + 1,
    )


def _frame(split: str, index: int, t: int) -> np.ndarray:
    return render(split, index, t)[0]


@lru_cache(maxsize=512)
def _seen(split: str, index: int, num_frames: int) -> np.ndarray:
    """Pixels of every object in every frame, int [T, K]."""
    count = len(_scene(split, index).classes)
    frames = [_labels(split, index, t) for t in range(num_frames)]
    return np.stack([np.bincount(f.ravel(), minlength=count + 1)[1:] for f in frames])


def _rles(split: str, index: int, num_frames: int, t: int) -> list[RLE | None]:
    shown = np.flatnonzero((_seen(split, index, num_frames) >= MIN_PIXELS).any(0)) + 1
    return encode(_labels(split, index, t) == shown[:, None, None])


def _describe(split: str, index: int, num_frames: int) -> Instances:
    valid = _seen(split, index, num_frames) >= MIN_PIXELS
    shown = np.flatnonzero(valid.any(0))  # an object may lie behind others all the time
    return Instances(
        ids=(shown + 1).astype(np.int32),
        classes=np.array(_scene(split, index).classes, np.int32)[shown],
        crowd=np.zeros(len(shown), bool),
        valid=valid[:, shown],
        categories=list(CLASSES),
        original_size=(HEIGHT, WIDTH),
    )


@lru_cache(maxsize=512)  # about 0.3 MB each
def _scene(split: str, index: int) -> VisScene:
    seed = (TAG, SPLITS[split], index)
    rng = np.random.default_rng(seed)
    regime = REGIMES[index % len(REGIMES)]
    draw = {"alike": _alike, "hidden": _hidden}.get(regime)
    shapes, classes, lives, bar = draw(rng) if draw else _moving(rng, regime)
    scene = Scene(
        seed=seed,
        shapes=tuple(shapes[k] for k in rng.permutation(len(shapes))),
        background=_texture(rng, BACKGROUND_TILE, _grey(rng, 14.0), 2),
        pan=random_direction(rng) * rng.uniform(*PAN),
        light_phase=rng.uniform(0, 2 * np.pi) + rng.uniform(-0.5, 0.5, 3),
    )
    return VisScene(scene, tuple(int(c) for c in classes), tuple(lives), bar)


def _moving(rng: np.random.Generator, regime: str):
    """slow and fast: objects anywhere, in any direction, some of them not all the time."""
    classes, colours = _kinds(rng, int(rng.integers(2, 5)))
    shapes, lives = [], []
    for k, (c, colour) in enumerate(zip(classes, colours, strict=True)):
        start = np.array([rng.uniform(14, HEIGHT - 14), rng.uniform(14, WIDTH - 14)])
        speed = rng.uniform(*(SLOW if regime == "slow" else FAST))
        velocity = random_direction(rng) * speed
        shapes.append(_shape(rng, k + 1, c, colour, start, velocity, rng.uniform(*RADIUS)))
        late, early = rng.random() < LATE, rng.random() < EARLY
        first, end = int(rng.integers(1, 5)), int(rng.integers(7, 11))
        lives.append((first, MOST) if late else (0, end if early else MOST))
    return shapes, classes, lives, None


def _alike(rng: np.random.Generator):
    """Two objects of one class and colour whose paths cross, sometimes a third one."""
    classes, colours = _kinds(rng, int(rng.integers(2, 4)))
    classes[1], colours[1] = classes[0], colours[0]
    meeting = np.array([rng.uniform(38, 58), rng.uniform(60, 100)])
    when, way = rng.uniform(*CROSSING), random_direction(rng)
    shapes = []
    for k, (c, colour) in enumerate(zip(classes, colours, strict=True)):
        velocity = random_direction(rng) * rng.uniform(*SLOW)
        start = np.array([rng.uniform(14, HEIGHT - 14), rng.uniform(14, WIDTH - 14)])
        if k < 2:  # towards each other, by at most a right angle off
            turn = rng.uniform(-np.pi / 4, np.pi / 4) + k * np.pi
            turned = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]) @ way
            velocity = turned * rng.uniform(*CROSSING_SPEED)
            start = meeting + rng.uniform(-2, 2, 2) - velocity * when
        shapes.append(_shape(rng, k + 1, c, colour, start, velocity, rng.uniform(*RADIUS)))
    return shapes, classes, [(0, MOST)] * len(shapes), None


def _hidden(rng: np.random.Generator):
    """Two or three objects, one below the other, that pass behind one bar."""
    count = int(rng.integers(2, 4))
    classes, colours = _kinds(rng, count)
    frames = int(rng.integers(HIDDEN_FRAMES[0], HIDDEN_FRAMES[1] + 1))
    reach = 11.5 * (1 + STAR)  # of the largest object
    # so fast that NUM_FRAMES show it on both sides, the bar so wide that it hides it so long
    speed = rng.uniform(1.0, 1.15) * 4 * reach / (NUM_FRAMES - 3 - frames)
    width = 2 * reach + speed * (frames - 1.5)
    middle = WIDTH / 2 + rng.uniform(-8, 8)
    lanes = (np.arange(count) + 0.5) * HEIGHT / count
    shapes, lives = [], []
    for k, (c, colour) in enumerate(zip(classes, colours, strict=True)):
        velocity = np.array([rng.uniform(-0.4, 0.4), speed * rng.choice([-1, 1])])
        when = (NUM_FRAMES - 1) / 2 + rng.uniform(-0.4, 0.4)
        start = np.array([lanes[k] + rng.uniform(-2, 2), middle - velocity[1] * when])
        shapes.append(_shape(rng, k + 1, c, colour, start, velocity, rng.uniform(9.0, 11.5)))
        lives.append((int(rng.integers(1, 3)) if rng.random() < LATE else 0, MOST))
    bar = _texture(rng, BACKGROUND_TILE, _grey(rng, 20.0), 0)
    return shapes, classes, lives, (round(middle - width / 2), round(middle + width / 2), bar)


def _kinds(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Classes from 1, [count], and different mean colours, [count, 3]."""
    hues = rng.permutation(len(COLOURS))[:count]
    colours = np.array(COLOURS, float)[hues] + rng.normal(0, COLOUR_NOISE, (count, 3))
    return rng.integers(1, len(CLASSES) + 1, count), colours


def _shape(
    rng: np.random.Generator,
    label: int,
    kind: int,
    colour: np.ndarray,
    start: np.ndarray,
    velocity: np.ndarray,
    radius: float,
) -> Shape:
    waves = [
        (
            order,
            rng.uniform(*WOBBLE) / (i + 1),
            rng.uniform(0, 2 * np.pi),
            rng.uniform(*WOBBLE_RATE),
        )
        for i, order in enumerate((2, 3, 4))
    ]
    if CLASSES[kind - 1] == "star":
        waves[0] = (5, STAR, 0.0, 0.0)
    return Shape(
        label=label,
        start=start,
        velocity=velocity,
        radius=radius,
        stretch=1.0,
        corners=4 if CLASSES[kind - 1] == "square" else 0,
        waves=np.array(waves),
        angle=rng.uniform(0, 2 * np.pi),
        spin=rng.uniform(-SPIN, SPIN),
        texture=_texture(rng, TILE, colour, kind - 1),
    )


def _grey(rng: np.random.Generator, spread: float) -> np.ndarray:
    return np.full(3, GREY) + rng.normal(0, spread, 3)


def _texture(rng: np.random.Generator, size: int, colour: Sequence[float], kind: int) -> np.ndarray:
    """Periodic grey pattern around a colour, float32 [size, size, 3]; 1: stripes, 0, 2: grain."""
    fy, fx = np.meshgrid(np.fft.fftfreq(size), np.fft.fftfreq(size), indexing="ij")
    centre = 1.0 / WAVELENGTHS[kind]
    band = np.exp(-(((np.hypot(fy, fx) - centre) / (0.3 * centre)) ** 2))
    if kind == 1:
        angle = rng.uniform(0, np.pi)
        band = band * np.exp(4 * np.cos(2 * (np.arctan2(fy, fx) - angle)))
    pattern = np.fft.ifft2(np.fft.fft2(rng.normal(size=(size, size))) * band).real
    pattern = (pattern - pattern.mean()) * (CONTRAST / pattern.std())
    return (np.asarray(colour) + pattern[..., None]).astype(np.float32)
