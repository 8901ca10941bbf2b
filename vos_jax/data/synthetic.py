"""synthetic-v1: embedded clips of textured, deforming, occluding shapes, drawn from a seed.

Frame t of clip `index` of a split is a pure function of (split, index, t): any frame is drawn
alone, and a clip may have any number of frames. Shapes and background are cut from the same
family of band-limited random textures with overlapping colours, so one pixel's colour says little;
the mean colour and texture of a neighbourhood, and where the object was before, say much.
numpy only and in float64, so that every machine draws the same pixels.

Objects are 1..K; everything follows the DAVIS rule (given in frame 0, scored in frames 1..T-2).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np

from vos_jax.data.clip import Objects, Video, first_frame_objects

# Frozen: changing any of these changes synthetic-v1.
NAME = "synthetic-v1"
TAG = 20170  # first word of every seed
SPLITS = {"train": 0, "test": 1}  # second word: train and test never share a seed
HEIGHT, WIDTH = 96, 160  # pixels
MOST = 100_000  # clips, and frames of a clip
NUM_FRAMES = 12  # default clip length
NUM_CLIPS = {"train": 400, "test": 20}  # default number of clips
MAX_OBJECTS = 3  # 1..3, equally likely
RADIUS = (19.0, 27.0)  # pixels, mean radius of a shape
SPEED = (1.7, 2.8)  # pixels per frame, constant along a path reflected at the frame
OVERHANG = 0.35  # of the radius: how far a centre may go beyond the frame
CORNERS = (4, 8)  # a polygon has 4..7 corners
SPIN = 0.07  # radians per frame, largest rotation
WOBBLE = (0.04, 0.14)  # relative amplitude of the radius modulation
WOBBLE_RATE = (0.25, 0.55)  # radians per frame
PAN = (0.4, 1.5)  # pixels per frame, speed of the background
TILE, BACKGROUND_TILE = 64, 128  # pixels, period of the textures
WAVELENGTH = (4.0, 11.0)  # pixels, of the band-limited texture
CONTRAST = (22.0, 30.0)  # grey levels, standard deviation of a texture
MEAN_COLOUR = 118.0  # grey levels, centre of all mean colours
COLOUR_SPREAD = 29.0  # grey levels, distance of a mean colour from the centre
MIN_COLOUR_GAP = 26.0  # grey levels, between mean colours of two layers of one clip
LIGHT = 0.06  # relative amplitude of the illumination drift
LIGHT_RATE = 0.25  # radians per frame
NOISE = 5.0  # grey levels, standard deviation of the sensor noise
MIN_VISIBLE = 60  # pixels of every object in frame 0 ...
MIN_VISIBLE_PART = 0.5  # ... and this part of its area


@dataclass(frozen=True)
class Shape:
    """One object: a star-shaped region r(angle, t) with its path and texture."""

    label: int
    start: np.ndarray  # (y, x) of the centre in frame 0
    velocity: np.ndarray  # (dy, dx) per frame
    radius: float
    stretch: float  # ratio of the two axes
    corners: int  # 0: round; n: regular n-gon
    waves: np.ndarray  # [3, 4]: order, amplitude, phase, rate of each modulation
    angle: float
    spin: float
    texture: np.ndarray  # float32 [TILE, TILE, 3]


@dataclass(frozen=True)
class Scene:
    """All a clip is drawn from; shapes from back to front."""

    seed: tuple[int, int, int]
    shapes: tuple[Shape, ...]
    background: np.ndarray  # float32 [BACKGROUND_TILE, BACKGROUND_TILE, 3]
    pan: np.ndarray
    light_phase: np.ndarray  # [3], one per colour channel


def synthetic_videos(
    split: str, count: int | None = None, num_frames: int = NUM_FRAMES
) -> list[Video]:
    """The first `count` clips of synthetic-v1's "train" or "test" split as Video objects.

    Raises ValueError for an unknown split, fewer than one clip or 3 frames, or more than MOST.
    """
    return drawn_videos(NAME, _frame, _mask, split, count, num_frames)


def drawn_videos(
    dataset: str,
    frame: Callable[[str, int, int], np.ndarray],
    mask: Callable[[str, int, int], np.ndarray],
    split: str,
    count: int | None,
    num_frames: int,
) -> list[Video]:
    """Clips of a data set whose frames and masks are functions of (split, index, t).

    Raises as `synthetic_videos`.
    """
    if split not in SPLITS:
        raise ValueError(f"{dataset} has no split {split!r}; expected one of {sorted(SPLITS)}")
    count = NUM_CLIPS[split] if count is None else int(count)
    if not (1 <= count <= MOST and 3 <= num_frames <= MOST):
        raise ValueError(
            f"{dataset}: expected at least 1 clip of at least 3 frames, at most {MOST} of each, got"
            f" {count} clips of {num_frames} frames"
        )
    names, stems = (
        [f"{split}-{i:04d}" for i in range(count)],
        [f"{t:05d}" for t in range(num_frames)],
    )
    return [
        Video(
            name=name,
            dataset=dataset,
            frame_names=stems,
            mask_files=[f"{dataset}/{name}/{stem}" for stem in stems],
            load_frame=partial(frame, split, index),
            load_mask=partial(mask, split, index),
            describe=partial(_objects, mask, split, index, num_frames),
        )
        for index, name in enumerate(names)
    ]


def _objects(mask: Callable, split: str, index: int, num_frames: int) -> Objects:
    return first_frame_objects(mask(split, index, 0), num_frames)


def render(split: str, index: int, t: int) -> tuple[np.ndarray, np.ndarray]:
    """Frame t of one clip: (uint8 [HEIGHT, WIDTH, 3] RGB, uint8 [HEIGHT, WIDTH] labels)."""
    image, labels = _drawn(split, index, t)
    return exposed(image, _scene(split, index), t), labels.copy()


def exposed(image: np.ndarray, scene: Scene, t: int) -> np.ndarray:
    """What a camera makes of a noise-free image float64 [H, W, 3]: light, noise, 8 bits."""
    noise = np.random.default_rng([*scene.seed, 1 + t]).normal(0.0, NOISE, image.shape)
    light = 1.0 + LIGHT * np.sin(LIGHT_RATE * t + scene.light_phase)
    return np.rint(np.clip(image * light + noise, 0, 255)).astype(np.uint8)


def _frame(split: str, index: int, t: int) -> np.ndarray:
    return render(split, index, t)[0]


def _mask(split: str, index: int, t: int) -> np.ndarray:
    return _drawn(split, index, t)[1].copy()


@lru_cache(maxsize=16)  # the mask of a frame is usually asked for right after its picture
def _drawn(split: str, index: int, t: int) -> tuple[np.ndarray, np.ndarray]:
    return _draw(_scene(split, index), t)


@lru_cache(maxsize=512)  # about 0.3 MB each: all default clips
def _scene(split: str, index: int) -> Scene:
    """Draw scenes until every object is well visible in frame 0."""
    seed = (TAG, SPLITS[split], index)
    rng = np.random.default_rng(seed)
    while True:
        scene = _random_scene(rng, seed)
        labels = _draw(scene, 0)[1]
        visible = np.bincount(labels.ravel(), minlength=MAX_OBJECTS + 1)
        areas = {shape.label: np.pi * shape.radius**2 for shape in scene.shapes}
        if all(
            visible[k] >= max(MIN_VISIBLE, MIN_VISIBLE_PART * area) for k, area in areas.items()
        ):
            return scene


def _random_scene(rng: np.random.Generator, seed: tuple[int, int, int]) -> Scene:
    count = int(rng.integers(1, MAX_OBJECTS + 1))
    colours = mean_colours(rng, count + 1)
    order = rng.permutation(count)
    shapes = tuple(random_shape(rng, int(k) + 1, colours[k + 1]) for k in order)
    return Scene(
        seed=seed,
        shapes=shapes,
        background=random_texture(rng, BACKGROUND_TILE, colours[0]),
        pan=random_direction(rng) * rng.uniform(*PAN),
        light_phase=rng.uniform(0, 2 * np.pi) + rng.uniform(-0.5, 0.5, 3),
    )


def random_shape(rng: np.random.Generator, label: int, colour: np.ndarray) -> Shape:
    radius = rng.uniform(*RADIUS)
    kind = rng.integers(3)  # ellipse, polygon, blob
    amplitude = rng.uniform(*WOBBLE) * (1.0 if kind == 2 else 0.5)
    waves = [
        (order, amplitude / (i + 1), rng.uniform(0, 2 * np.pi), rng.uniform(*WOBBLE_RATE))
        for i, order in enumerate(rng.permutation([2, 3, 4]))
    ]
    margin = 0.6 * radius
    start = [rng.uniform(margin, HEIGHT - margin), rng.uniform(margin, WIDTH - margin)]
    return Shape(
        label=label,
        start=np.array(start),
        velocity=random_direction(rng) * rng.uniform(*SPEED),
        radius=radius,
        stretch=rng.uniform(0.65, 0.9) if kind == 0 else 1.0,
        corners=int(rng.integers(*CORNERS)) if kind == 1 else 0,
        waves=np.array(waves),
        angle=rng.uniform(0, 2 * np.pi),
        spin=rng.uniform(-SPIN, SPIN),
        texture=random_texture(rng, TILE, colour),
    )


def random_direction(rng: np.random.Generator) -> np.ndarray:
    angle = rng.uniform(0, 2 * np.pi)
    return np.array([np.sin(angle), np.cos(angle)])


def mean_colours(rng: np.random.Generator, count: int) -> np.ndarray:
    """Mean colours [count, 3] on a small sphere around grey, none too close to another."""
    colours = []
    while len(colours) < count:
        vector = rng.normal(size=3)
        colour = MEAN_COLOUR + COLOUR_SPREAD * vector / np.linalg.norm(vector)
        if all(np.linalg.norm(colour - other) >= MIN_COLOUR_GAP for other in colours):
            colours.append(colour)
    return np.array(colours)


def random_texture(rng: np.random.Generator, size: int, colour: np.ndarray) -> np.ndarray:
    """Periodic random texture [size, size, 3]: two oriented bands of noise, each with a colour."""
    fy, fx = np.meshgrid(np.fft.fftfreq(size), np.fft.fftfreq(size), indexing="ij")
    frequency = np.hypot(fy, fx)
    texture = np.zeros((size, size, 3))
    for _ in range(2):
        centre = 1.0 / rng.uniform(*WAVELENGTH)
        angle = rng.uniform(0, np.pi)
        along = np.cos(2 * (np.arctan2(fy, fx) - angle))
        band = np.exp(-(((frequency - centre) / (0.35 * centre)) ** 2) + along)
        noise = np.fft.ifft2(np.fft.fft2(rng.normal(size=(size, size))) * band).real
        tint = 0.6 + 0.4 * rng.normal(size=3)
        texture += (noise / noise.std())[..., None] * tint
    texture -= texture.mean((0, 1))
    texture = colour + texture * (rng.uniform(*CONTRAST) / texture.std())
    return texture.astype(np.float32)  # for storage: everything is computed in float64


def _draw(scene: Scene, t: int) -> tuple[np.ndarray, np.ndarray]:
    """Noise-free image float64 [H, W, 3] and labels uint8 [H, W]."""
    image = draw_background(scene, t)
    labels = np.zeros((HEIGHT, WIDTH), np.uint8)
    for shape in scene.shapes:
        paint(shape, t, image, labels)
    return image, labels


def draw_background(scene: Scene, t: int) -> np.ndarray:
    """Shift the periodic background by a fraction of a pixel: rows, then columns."""
    image = scene.background.astype(np.float64)
    for axis, (size, shift) in enumerate(zip((HEIGHT, WIDTH), scene.pan * t, strict=True)):
        whole = int(np.floor(shift))
        index = (np.arange(size) + whole) % BACKGROUND_TILE
        near = np.take(image, index, axis)
        far = np.take(image, (index + 1) % BACKGROUND_TILE, axis)
        image = near + (shift - whole) * (far - near)
    return image


def paint(shape: Shape, t: int, image: np.ndarray, labels: np.ndarray) -> None:
    """Blend one shape into `image` and write its label where it covers at least half a pixel."""
    rows, columns, alpha, v, u = cover(shape, t)
    colour = _sample(shape.texture, v, u)
    image[rows, columns] += alpha[:, None] * (colour - image[rows, columns])
    inside = alpha >= 0.5
    labels[rows[inside], columns[inside]] = shape.label


def cover(shape: Shape, t: int) -> tuple[np.ndarray, ...]:
    """The P pixels that a shape covers: rows, columns, the covered parts, and v and u, where in the
    shape each lies.
    """
    room = np.array([HEIGHT, WIDTH]) - 1.0
    low, high = -OVERHANG * shape.radius, room + OVERHANG * shape.radius
    centre = _reflect(shape.start + shape.velocity * t, low, high)
    reach = 1.45 * shape.radius
    top, left = np.maximum(np.floor(centre - reach), 0).astype(int)
    bottom, right = np.minimum(np.ceil(centre + reach) + 1, [HEIGHT, WIDTH]).astype(int)
    dy = np.arange(top, max(top, bottom))[:, None] - centre[0]
    dx = np.arange(left, max(left, right))[None] - centre[1]
    turn = shape.angle + shape.spin * t
    v = np.cos(turn) * dy - np.sin(turn) * dx
    u = np.sin(turn) * dy + np.cos(turn) * dx
    part = np.clip(0.5 + _boundary(shape, v, u, t) - np.hypot(v, u / shape.stretch), 0, 1)
    rows, columns = np.nonzero(part)
    where = rows, columns
    return rows + top, columns + left, part[where], v[where], u[where]


def _reflect(position: np.ndarray, low: float, high: np.ndarray) -> np.ndarray:
    span = high - low
    phase = np.mod(position - low, 2 * span)
    return low + np.minimum(phase, 2 * span - phase)


def _boundary(shape: Shape, v: np.ndarray, u: np.ndarray, t: int) -> np.ndarray:
    """Radius of the outline in the direction of every pixel."""
    angle = np.arctan2(v, u / shape.stretch)
    radius = np.full(angle.shape, shape.radius)
    if shape.corners:
        sector = 2 * np.pi / shape.corners
        offset = np.mod(angle, sector) - sector / 2
        # A regular polygon whose mean of in- and circumradius is shape.radius.
        inradius = 2 * shape.radius * np.cos(sector / 2) / (1 + np.cos(sector / 2))
        radius = inradius / np.cos(offset)
    change = np.zeros(angle.shape)
    for order, amplitude, phase, rate in shape.waves:
        change += amplitude * np.cos(order * angle + phase) * np.cos(rate * t + phase)
    return radius * (1.0 + change)


def _sample(texture: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Bilinear look-up in a periodic texture: [P, 3] at the P positions (y, x)."""
    size = texture.shape[0]
    y0, x0 = np.floor(y).astype(int), np.floor(x).astype(int)
    wy, wx = (y - y0)[:, None], (x - x0)[:, None]
    y0, x0 = y0 % size, x0 % size
    y1, x1 = (y0 + 1) % size, (x0 + 1) % size
    upper = texture[y0, x0] * (1 - wx) + texture[y0, x1] * wx
    lower = texture[y1, x0] * (1 - wx) + texture[y1, x1] * wx
    return upper * (1 - wy) + lower * wy
