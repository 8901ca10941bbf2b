"""SynthVOS: salient objects, cut out of still images, move across other images.

Johnander et al., "A Generative Appearance Model for End-to-end Video Object Segmentation", CVPR
2019, section 4: 1-5 objects of MSRA10K over images of VOC2012. The authors' generator was never
released, so sizes, paths and turns are ours. Frame t of video i is a pure function of the files and
(i, t): any frame is drawn alone.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from vos_jax.data.clip import VOID, Objects, Video, first_frame_objects
from vos_jax.data.folders import frames_of, require_folders
from vos_jax.data.frames import read_image
from vos_jax.data.images import ALL, open_images
from vos_jax.data.packed import data_folder

NAME = "synth_vos"
TAG = 18111  # first word of every seed
MOST_OBJECTS = 5  # paper: 1 to 5, equally likely
# ours
SIZE = (0.25, 0.6)  # longer side of an object, of the shorter one of the frame
SPEED = (0.0, 0.03)  # of the shorter side, per frame
GROWTH = (0.98, 1.02)  # of an object, per frame
TURN = 3.0  # degrees per frame, at most
INSIDE = (0.1, 0.9)  # where its centre begins, of height and width


@dataclass(frozen=True)
class _Sprite:
    """An object and how it moves: an image, its shape, and places in pixels of the background."""

    image: np.ndarray  # uint8 [h, w, 3]
    inside: np.ndarray  # uint8 [h, w], 255 inside
    centre: np.ndarray  # x, y in frame 0
    velocity: np.ndarray
    scale: float
    growth: float
    turn: float  # degrees per frame

    def matrix(self, t: int) -> np.ndarray:
        """From places in the image to places in frame t, float [2, 3]."""
        height, width = self.inside.shape
        middle = ((width - 1) / 2, (height - 1) / 2)
        scale = self.scale * self.growth**t
        matrix = cv2.getRotationMatrix2D(middle, self.turn * t, scale)
        matrix[:, 2] += self.centre + self.velocity * t - middle
        return matrix


@dataclass(frozen=True, eq=False)
class _Scenes:
    """All videos. Methods, not closures, draw frames: worker processes are handed the videos."""

    pairs: list[Video]
    backgrounds: list[Callable[[], np.ndarray]]
    num_frames: int

    @functools.lru_cache(maxsize=64)  # noqa: B019  one for all clips of a run
    def scene(self, index: int) -> tuple[np.ndarray, tuple[_Sprite, ...]]:
        """Background and objects of a video, from back to front."""
        rng = np.random.default_rng([TAG, index])
        background = self.backgrounds[rng.integers(len(self.backgrounds))]()
        count = int(rng.integers(1, MOST_OBJECTS + 1))
        chosen = rng.choice(len(self.pairs), min(count, len(self.pairs)), replace=False)
        sprites = (self._sprite(self.pairs[i], background.shape[:2], rng) for i in chosen)
        return background, tuple(sprite for sprite in sprites if sprite is not None)

    def frame(self, index: int, t: int) -> np.ndarray:
        """uint8 [H, W, 3]."""
        return self._drawn(index, t)[0]

    def mask(self, index: int, t: int) -> np.ndarray:
        """uint8 [H, W]; ids follow the order in which objects cover each other."""
        return self._drawn(index, t)[1].copy()

    def objects(self, index: int) -> Objects:
        """Those of the first frame."""
        return first_frame_objects(self.mask(index, 0), self.num_frames)

    @functools.lru_cache(maxsize=16)  # noqa: B019  a mask is asked for right after its picture
    def _drawn(self, index: int, t: int) -> tuple[np.ndarray, np.ndarray]:
        background, sprites = self.scene(index)
        image, labels = background.copy(), np.zeros(background.shape[:2], np.uint8)
        size = labels.shape[::-1]
        for label, sprite in enumerate(sprites, start=1):
            matrix = sprite.matrix(t)
            inside = cv2.warpAffine(sprite.inside, matrix, size, flags=cv2.INTER_LINEAR) >= 128
            pixels = cv2.warpAffine(sprite.image, matrix, size, borderMode=cv2.BORDER_REPLICATE)
            image[inside], labels[inside] = pixels[inside], label
        return image, labels

    @staticmethod
    def _sprite(pair: Video, frame: tuple[int, int], rng: np.random.Generator) -> _Sprite | None:
        """An object of an image; None where the mask has none."""
        labels = pair.mask(0)
        inside = ((labels > 0) & (labels != VOID)).astype(np.uint8)
        left, top, width, height = cv2.boundingRect(inside)
        short, (length, angle) = min(frame), (rng.uniform(*SPEED), rng.uniform(0, 2 * np.pi))
        size, growth, turn = rng.uniform(*SIZE), rng.uniform(*GROWTH), rng.uniform(-TURN, TURN)
        centre = rng.uniform(*INSIDE, 2) * frame[::-1]
        if not width:
            return None
        box = np.s_[top : top + height, left : left + width]
        return _Sprite(
            image=pair.frame(0)[box].copy(),
            inside=255 * inside[box],
            centre=centre,
            velocity=length * short * np.array([np.cos(angle), np.sin(angle)]),
            scale=size * short / max(width, height),
            growth=growth,
            turn=turn,
        )


def open_synth_vos(
    dir: str,
    split: str = ALL,
    images: str = "",
    masks: str = "",
    backgrounds: str = "",
    videos: int = 0,
    frames: int = 16,
) -> list[Video]:
    """Videos made of the image and mask pairs of a folder; no pixel is read.

    dir, split, images, masks: of the pairs, see `open_images`. backgrounds: a folder of images,
    absolute or relative to dir; empty: the images of the pairs. videos: how many, 0: as many as
    there are pairs. frames: of each.
    Raises FileNotFoundError and ValueError as `open_images` does, and for backgrounds that are not
    there.
    """
    if videos < 0 or frames < 1:
        raise ValueError(
            f"{NAME}: expected videos from 0 and frames from 1, found {videos} and {frames}"
        )
    pairs = open_images(dir, split, images, masks)
    if backgrounds:
        folder = data_folder(dir) / backgrounds
        require_folders((folder,), "it is named by the option backgrounds")
        behind = [functools.partial(read_image, file) for file in frames_of(folder)]
    else:
        behind = [functools.partial(pair.frame, 0) for pair in pairs]
    scenes = _Scenes(pairs, behind, frames)
    return [_video(scenes, index) for index in range(videos or len(pairs))]


def _video(scenes: _Scenes, index: int) -> Video:
    name, count = f"{index:06d}", scenes.num_frames
    return Video(
        name=name,
        dataset=NAME,
        frame_names=[f"{t:05d}" for t in range(count)],
        mask_files=[f"{NAME}/{name}/{t:05d}" for t in range(count)],
        load_frame=functools.partial(scenes.frame, index),
        load_mask=functools.partial(scenes.mask, index),
        describe=functools.partial(scenes.objects, index),
    )
