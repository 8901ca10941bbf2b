"""A user's video: the images of a folder in natural order, or the frames of a video file."""

import re
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
from etils import epath

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm")


class FrameSource:
    """Frames of one size, to be iterated (again and again) as (stem, uint8 [H, W, 3] RGB).

    size: (H, W). length: number of frames, None where a video file does not tell.
    """

    def __init__(
        self,
        path: str,
        size: tuple[int, int],
        length: int | None,
        read: Callable[[], Iterator[tuple[str, str, np.ndarray]]],
    ):
        self.path = path
        self.size = size
        self.length = length
        self._read = read

    def __iter__(self) -> Iterator[tuple[str, np.ndarray]]:
        for stem, where, frame in self._read():
            if frame.shape[:2] != self.size:
                raise ValueError(
                    f"{where}: this frame is {frame.shape[0]}x{frame.shape[1]} (height x width),"
                    f" the first one is {self.size[0]}x{self.size[1]}; resize the frames to one"
                    " size"
                )
            yield stem, frame


def open_frames(path) -> FrameSource:
    """Open a folder of images or a video file.

    Images are sorted by stem with numbers by value (2 before 10); video frames are named
    00000, 00001, ... Only the first frame is read here.

    Raises FileNotFoundError where nothing is at `path`; ValueError for a folder without images,
    two images of one stem, an unreadable frame or video; while iterating, for an unreadable frame
    or one of another size than the first. All name the file.
    """
    place = epath.Path(path)
    if place.is_dir():
        return _open_folder(place)
    if not place.exists():
        raise FileNotFoundError(f"{path}: no such folder of frames or video file")
    return _open_video(Path(path))


def read_image(path) -> np.ndarray:
    """Read one image file as uint8 [H, W, 3] RGB; ValueError or FileNotFoundError name it."""
    path = epath.Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such image file")
    return decode_image(path.read_bytes(), str(path))


def decode_image(data: bytes, where: str) -> np.ndarray:
    """`read_image` for the bytes of an encoded image; `where` names them in messages."""
    image = None
    if data:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        raise ValueError(f"{where}: cannot be read as an image; is the file cut off?")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def list_images(folder) -> list[epath.Path]:
    """The image files of a folder, sorted by stem with numbers by value."""
    files = [f for f in epath.Path(folder).iterdir() if f.suffix.lower() in IMAGE_SUFFIXES]
    return sorted((f for f in files if not f.name.startswith(".")), key=_natural)


def _natural(path: epath.Path) -> list[tuple[int, int, str]]:
    parts = re.findall(r"\d+|\D+", path.stem)
    return [(0, int(part), part) if part.isdecimal() else (1, 0, part) for part in parts]


def _open_folder(folder: epath.Path) -> FrameSource:
    files = list_images(folder)
    if not files:
        raise ValueError(
            f"{folder}: the folder holds no image; expected files ending in"
            f" {', '.join(IMAGE_SUFFIXES)}"
        )
    stems = [file.stem for file in files]
    for one, other in pairwise(files):
        if one.stem == other.stem:
            raise ValueError(
                f"{folder}: {one.name} and {other.name} would be the same frame; keep one of them"
            )

    def read():
        for stem, file in zip(stems, files, strict=True):
            yield stem, str(file), read_image(file)

    return FrameSource(str(folder), read_image(files[0]).shape[:2], len(files), read)


def _open_video(path: Path) -> FrameSource:
    def read():
        capture = cv2.VideoCapture(str(path))
        try:
            number = 0
            while True:
                good, frame = capture.read()
                if not good:
                    return
                where = f"{path}, frame {number}"
                yield f"{number:05d}", where, cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
                number += 1
        finally:
            capture.release()

    capture = cv2.VideoCapture(str(path))
    try:
        good, frame = capture.read()
        length = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    finally:
        capture.release()
    if not good:
        raise ValueError(
            f"{path}: cannot be read as a video; give a folder of images, or convert it with ffmpeg"
        )
    return FrameSource(str(path), frame.shape[:2], length if length > 0 else None, read)
