"""Synthetic images with instances, for quick runs and tests: discs, squares and triangles.

One to three objects on a ground whose brightness changes slowly, each with a form and about a
colour that are those of its class, a shade and noise; they may cover a part of each other. Two
objects of an image may be of one class, so that a mask of all that looks alike is not enough. Image
k of a split is a function of (split, k) alone; train and test share no seed.
"""

from functools import lru_cache, partial
from typing import NamedTuple

import cv2
import numpy as np

from vos_jax.data.instances import Instances, InstanceVideo
from vos_jax.data.rle import RLE, encode

NAME = "synthetic-instances-v1"
CLASSES = ("disc", "square", "triangle")
SPLITS = {"train": 0, "test": 1}
NUM_IMAGES = {"train": 2_000, "test": 100}  # default
MOST = 100_000
TAG = 20171  # first word of every seed
HEIGHT, WIDTH = 64, 96  # pixels
MAX_OBJECTS = 3  # 1..3, equally likely
RADIUS = (9.0, 16.0)  # pixels, of the circle around an object
COLOURS = np.array([(195, 85, 75), (85, 180, 95), (85, 105, 205)], float)  # of the classes
SPREAD = 25.0  # grey levels, standard deviation of an object's colour from that of its class
SHADE = 0.25  # relative change of brightness from the middle of an object to its edge
GROUND = (40.0, 140.0)  # grey levels, brightness of a coarse grid ...
TINT = 20.0  # ... and how far its colours are from grey at most
NOISE = 9.0  # grey levels, standard deviation
LEAST_VISIBLE = 0.6  # of the area of every object


class Drawn(NamedTuple):
    """image: uint8 [H, W, 3]. masks: bool [N, H, W], what is to be seen. classes: int32 [N]."""

    image: np.ndarray
    masks: np.ndarray
    classes: np.ndarray


def open_synthetic_instances(split: str, dir: str = "", images: int = 0) -> list[InstanceVideo]:
    """The images of the "train" or "test" split; images: how many, 0 for the default. No dir.

    Raises ValueError for an unknown split, or a number of images outside 0..MOST.
    """
    if split not in SPLITS:
        raise ValueError(f"{NAME} has no split {split!r}; expected one of {sorted(SPLITS)}")
    if not 0 <= images <= MOST:
        raise ValueError(f"{NAME}: expected 0 to {MOST} images, found {images}")
    return [_video(split, k) for k in range(images or NUM_IMAGES[split])]


@lru_cache(maxsize=64)  # picture, masks and classes are asked for one after the other
def draw(split: str, number: int) -> Drawn:
    """Image `number` of a split; drawn anew until enough of every object is to be seen."""
    rng = np.random.default_rng([TAG, SPLITS[split], number])
    while True:
        classes = rng.integers(len(CLASSES), size=rng.integers(1, MAX_OBJECTS + 1))
        image, whole = _ground(rng), []
        for k in classes:
            whole.append(_paint(rng, image, int(k)))
        covered = np.cumsum([*whole[1:], np.zeros_like(whole[0])][::-1], axis=0)[::-1] > 0
        masks = np.stack(whole) & ~covered
        shares = masks.sum(axis=(1, 2)) / np.maximum([m.sum() for m in whole], 1)
        if shares.min() >= LEAST_VISIBLE:
            break
    image += rng.normal(0, NOISE, image.shape)
    return Drawn(np.rint(image.clip(0, 255)).astype(np.uint8), masks, classes.astype(np.int32) + 1)


def _ground(rng: np.random.Generator) -> np.ndarray:
    coarse = rng.uniform(*GROUND, (4, 6, 1)) + rng.uniform(-TINT, TINT, (4, 6, 3))
    return cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)


def _paint(rng: np.random.Generator, image: np.ndarray, kind: int) -> np.ndarray:
    """Paints an object into the image; returns its mask."""
    radius = rng.uniform(*RADIUS)
    centre = rng.uniform(0.7 * radius, np.array([HEIGHT, WIDTH]) - 0.7 * radius)
    angle = rng.uniform(0, 2 * np.pi)
    dy, dx = (np.mgrid[:HEIGHT, :WIDTH] - centre[:, None, None]) / radius
    corners = (0, 4, 3)[kind]
    if corners:  # inside of all sides
        sides = angle + 2 * np.pi * np.arange(corners) / corners
        towards = np.cos(sides)[:, None, None] * dx + np.sin(sides)[:, None, None] * dy
        mask = towards.max(axis=0) <= np.cos(np.pi / corners)
    else:
        mask = dy**2 + dx**2 <= 1
    colour = COLOURS[kind] + rng.normal(0, SPREAD, 3)
    shade = 1 + SHADE * (np.cos(angle) * dx + np.sin(angle) * dy)
    image[mask] = (shade[..., None] * colour)[mask]
    return mask


def _video(split: str, number: int) -> InstanceVideo:
    return InstanceVideo(
        name=f"{split}-{number:05d}",
        dataset=NAME,
        frame_names=["00000"],
        load_frame=partial(_frame, split, number),
        load_rles=partial(_rles, split, number),
        describe=partial(_instances, split, number),
        video_id=number + 1,
    )


def _frame(split: str, number: int, t: int) -> np.ndarray:
    return draw(split, number).image.copy()


def _rles(split: str, number: int, t: int) -> list[RLE]:
    return encode(draw(split, number).masks)


def _instances(split: str, number: int) -> Instances:
    _, masks, classes = draw(split, number)
    return Instances(
        ids=np.arange(1, len(classes) + 1, dtype=np.int32),
        classes=classes,
        crowd=np.zeros(len(classes), bool),
        valid=np.ones((1, len(classes)), bool),
        categories=list(CLASSES),
        original_size=masks.shape[1:],
    )
