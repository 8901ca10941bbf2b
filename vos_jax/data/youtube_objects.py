"""YouTube-Objects with the pixel masks of Jain and Grauman (ECCV 2014), in their folder layout.

    <root>/<category>/data/<id>/shots/<shot>/images/frame0001.jpg
    <root>/<category>/data/<id>/shots/<shot>/labels/00001.jpg       about every 10th frame
    <frames>/<category>/data/<id>/shots/<shot>/frame0001.jpg        in place of images

A video is a shot that has labels, named <category>/<id>/<shot>. It has one object of id 1, given at
the first annotated frame and scored at the others; motorbike/0007/001 and cow/0019/001 have a
single annotated frame and therefore none that is scored. A label is of the frame with the same
last number in its name.

Layout, the spacing of 10, scored frames and those two shots: OnAVOS's loader and scorer
(youtubeobjects_full and eval_youtube.py); frames in a tree of their own, as YouTube-Objects v1
comes: another public loader (a class `youtube` beside FCN models). Labels are grey JPEGs of 0 and
255 whose compression blurs borders: 128 and more is object here (OnAVOS counts 255 alone, the other
loader more than 15). They may be smaller than the frames; then, as in OnAVOS, the frames are scaled
down to them. No copy of the data set was at hand: this was tested on generated data.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import cv2
import numpy as np
from etils import epath

from vos_jax.data.clip import Objects, Video
from vos_jax.data.folders import (
    by_number,
    frames_of,
    one_object,
    read_at,
    require_folders,
    some,
    subfolders,
)
from vos_jax.data.frames import image_facts, read_image
from vos_jax.data.packed import data_folder

CATEGORIES = (
    "aeroplane",
    "bird",
    "boat",
    "car",
    "cat",
    "cow",
    "dog",
    "horse",
    "motorbike",
    "train",
)
ALL = "all"
THRESHOLD = 128  # from this grey value on, a pixel is object
LAYOUT = "YouTube-Objects has <dir>/<category>/data/<id>/shots/<shot>/{images,labels}"


def open_youtube_objects(dir: str, split: str = ALL, frames: str = "") -> list[Video]:
    """The annotated shots of all ten categories, or of one, sorted by name; no pixel is read here.

    split: "all", or the name of a category. frames: root of the frames where they do not lie beside
    the labels; absolute, or relative to dir.
    Raises FileNotFoundError for a missing folder or frame; ValueError for an unknown split or a
    category without labels.
    """
    if split not in (ALL, *CATEGORIES):
        raise ValueError(
            f"youtube_objects: expected split {ALL!r} or one of {CATEGORIES}, got {split!r}"
        )
    root = data_folder(dir)
    images = root / frames if frames else None
    require_folders((root, *([images] if images else [])), LAYOUT)
    names = CATEGORIES if split == ALL else (split,)
    require_folders((root / name / "data" for name in names), LAYOUT)
    return [video for name in names for video in _open_category(root, name, images)]


def read_label(path) -> np.ndarray:
    """Read a label as uint8 [H, W]: 1 where its grey value is at least 128, else 0."""
    return (read_image(path)[..., 0] >= THRESHOLD).astype(np.uint8)


@dataclass(frozen=True)
class _ScaledFrames:
    """Frames in the size of the labels."""

    files: Sequence[epath.Path]
    label: epath.Path

    @cached_property
    def size(self) -> tuple[int, int]:
        """(H, W) of the labels, from the head of the first one."""
        return image_facts(self.label)[0]

    def read(self, t: int) -> np.ndarray:
        """uint8 [H, W, 3] of frame t; ValueError where it has another shape than the labels."""
        image = read_image(self.files[t])
        found, (height, width) = image.shape[:2], self.size
        if found == (height, width):
            return image
        # scaled by one factor, up to a pixel of rounding
        if found[0] < height or abs(found[1] * height / found[0] - width) > 1:
            raise ValueError(
                f"{self.files[t]}: expected a frame of the labels' size {height}x{width} or an"
                f" enlargement of it, found {found[0]}x{found[1]} (height x width); do frames and"
                " labels belong together?"
            )
        return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)


def _open_category(root: epath.Path, category: str, images: epath.Path | None) -> list[Video]:
    shots = [
        (video.name, shot)
        for video in subfolders(root / category / "data")
        if (video / "shots").is_dir()
        for shot in subfolders(video / "shots")
        if (shot / "labels").is_dir()
    ]
    if not shots:
        raise ValueError(f"{root / category / 'data'}: no shot has a folder labels; {LAYOUT}")
    return [_open_shot(category, number, shot, images) for number, shot in shots]


def _open_shot(category: str, number: str, shot: epath.Path, images: epath.Path | None) -> Video:
    folder = shot / "images"
    if images is not None:
        folder = images / category / "data" / number / "shots" / shot.name
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{folder}: no such folder of frames; {LAYOUT}; where the frames are in another tree,"
            " name its root with the option frames"
        )
    frame_files = frames_of(folder)
    labels = by_number(frames_of(shot / "labels"))
    numbered = by_number(frame_files)
    lost = [file.name for key, file in labels.items() if key not in numbered]
    if lost:
        raise FileNotFoundError(
            f"{folder}: {len(lost)} labels have no frame of the same number: {some(lost)}; is the"
            " download complete?"
        )
    annotated = {file: labels.get(key) for key, file in numbered.items()}
    label_files = [annotated[file] for file in frame_files]
    first = next(t for t, file in enumerate(label_files) if file is not None)
    scaled = _ScaledFrames(frame_files, label_files[first])
    return Video(
        name=f"{category}/{number}/{shot.name}",
        dataset="youtube_objects",
        frame_names=[file.stem for file in frame_files],
        mask_files=[None if file is None else str(file) for file in label_files],
        load_frame=scaled.read,
        load_mask=partial(read_at, read_label, label_files),
        describe=partial(_objects, scaled, [file is not None for file in label_files], category),
    )


def _objects(scaled: _ScaledFrames, annotated: list[bool], category: str) -> Objects:
    first = annotated.index(True)
    scored = np.array(annotated)
    scored[first] = False
    return one_object(first, scored, scaled.size, category)
