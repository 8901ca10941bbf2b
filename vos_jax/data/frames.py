"""A user's video: the images of a folder in natural order, or the frames of a video file.

The rules for both are in docs/files.md.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from decimal import Decimal
from pathlib import Path

import cv2
import numpy as np
from etils import epath

from vos_jax.data.image_file import (
    bits_per_sample,
    load,
    open_image,
    orientation,
    read_bytes,
    upright,
    upright_size,
)
from vos_jax.data.video_file import decoded_frames, read_header
from vos_jax.notes import note

IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jfif", ".jpe", ".png", ".bmp", ".webp"),
    *(".tif", ".tiff", ".ppm", ".pgm"),
)
# Pictures of kinds that are not read: among frames they would be gaps.
FOREIGN_SUFFIXES = (
    *(".gif", ".avif", ".heic", ".heif", ".jp2", ".jxl", ".exr", ".hdr", ".tga", ".svg"),
    *(".dng", ".cr2", ".nef", ".arw"),
)
FEW_BITS = 1 << 12  # below this a frame of 16 bits is nearly black
_NUMBERED = re.compile(r"(\D*)(\d+)(?:\.(\d+))?(\D*)")


class FrameSource:
    """Frames of one size, to be iterated (again and again) as (stem, uint8 [H, W, 3] RGB).

    Attributes:
        path: the folder or file.
        size: (H, W).
        length: number of frames, None where a video file does not tell; what it tells may be wrong.
        stems: of all frames, None for a video file, whose frames are called 00000, 00001, ...
        fps: frames per second, None for a folder.
    """

    def __init__(
        self,
        path: str,
        size: tuple[int, int],
        length: int | None,
        read: Callable[[Sequence[int] | None], Iterator[tuple[str, str, np.ndarray]]],
        turn: Callable[[str], int],
        stems: Sequence[str] | None = None,
        fps: float | None = None,
    ):
        self.path = path
        self.size = size
        self.length = length
        self.stems = stems
        self.fps = fps
        self._read = read
        self._turn = turn

    def __iter__(self) -> Iterator[tuple[str, np.ndarray]]:
        return self._checked(None)

    def pick(self, indices: Sequence[int]) -> list[np.ndarray]:
        """The frames of these numbers, from 0; a video file is decoded up to the last of them."""
        wanted = sorted(set(indices))
        frames = (frame for _, frame in self._checked(wanted))
        found = dict(zip(wanted, frames, strict=True))
        return [found[index] for index in indices]

    def count(self) -> int:
        """The number of frames; a video file is decoded for it, since its header may be wrong."""
        return len(self.stems) if self.stems is not None else sum(1 for _ in self)

    def _checked(self, wanted: Sequence[int] | None) -> Iterator[tuple[str, np.ndarray]]:
        for stem, where, frame in self._read(wanted):
            if frame.shape[:2] != self.size:
                raise ValueError(
                    f"{where}: this frame is {frame.shape[0]}x{frame.shape[1]} (height x width),"
                    f" the first one is {self.size[0]}x{self.size[1]}; resize the frames to one"
                    " size"
                )
            yield stem, frame

    def turn(self, stem: str) -> int:
        """How the frame was turned when it was read: an orientation of EXIF, 1 for not at all."""
        return self._turn(stem)


def open_frames(path) -> FrameSource:
    """Open a folder of images or a video file.

    Images are sorted by `in_order` and turned as their EXIF says; video frames are turned as
    players do and named 00000, 00001, ... Only the first frame is read here.

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
    """Read an image file as uint8 [H, W, 3] RGB, upright; ValueError, FileNotFoundError name it."""
    return read_turned(path)[0]


def read_turned(path) -> tuple[np.ndarray, int]:
    """`read_image`, and the orientation of EXIF by which it was turned, 1 for not at all."""
    return _decoded(read_bytes(path), str(path))


def decode_image(data: bytes, where: str) -> np.ndarray:
    """`read_image` for the bytes of an encoded image; `where` names them in messages."""
    return _decoded(data, where)[0]


def _decoded(data: bytes, where: str) -> tuple[np.ndarray, int]:
    """The upright frame, and the orientation by which it was turned."""
    image = open_image(data, where)
    if image.format not in ("JPEG", "PNG"):
        load(image, where)  # OpenCV reads the others even where they are cut off
    flags = cv2.IMREAD_IGNORE_ORIENTATION
    encoded = np.frombuffer(data, np.uint8)
    if bits_per_sample(image) == 16:
        _check_range(cv2.imdecode(encoded, flags | cv2.IMREAD_ANYDEPTH), where)
    pixels = cv2.imdecode(encoded, flags | cv2.IMREAD_COLOR)
    if pixels is None:
        raise ValueError(
            f"{where}: a {image.format} of mode {image.mode} cannot be read as a frame; save it"
            " with 8 bits for each of red, green and blue"
        )
    turn = orientation(image, data)
    return upright(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), turn), turn


def image_facts(path: epath.PathLike) -> tuple[tuple[int, int], int]:
    """(H, W) of an image once it is upright, and its orientation, without decoding it."""
    data = read_bytes(path)
    image = open_image(data, str(path))
    turn = orientation(image, data)
    return upright_size(image, turn), turn


def list_images(folder) -> list[epath.Path]:
    """The image files of a folder, `in_order`; hidden files and folders are none."""
    return _images_of(epath.Path(folder).iterdir())


def list_frames(folder) -> list[epath.Path]:
    """`list_images` of a folder of frames, where a picture that is not read would be a gap.

    Raises ValueError where it holds pictures of such kinds.
    """
    files = list(epath.Path(folder).iterdir())
    foreign = sorted(f.name for f in files if f.suffix.lower() in FOREIGN_SUFFIXES)
    if foreign:
        more = f" and {len(foreign) - 1} more" if len(foreign) > 1 else ""
        raise ValueError(
            f"{folder}: {foreign[0]}{more}: pictures of this kind are not read, so frames would be"
            f" missing; save them as PNG or JPEG, or move them away. Read are files ending in"
            f" {', '.join(IMAGE_SUFFIXES)}"
        )
    return _images_of(files)


def _images_of(files: Iterable[epath.Path]) -> list[epath.Path]:
    images = [f for f in files if f.suffix.lower() in IMAGE_SUFFIXES]
    return in_order(f for f in images if not f.name.startswith(".") and not _is_folder(f))


def list_masks(folder) -> list[epath.Path]:
    """The PNG files of a folder, .png or .PNG, `in_order`."""
    return [file for file in list_images(folder) if file.suffix.lower() == ".png"]


def in_order(files: Iterable[epath.Path]) -> list[epath.Path]:
    """Files sorted by stem, with numbers by value: 2 before 10.

    Where every stem is one number in the same words, it may be decimal: 0.25 before 0.5. Parts of
    several lengths after the point that end in 0 are no decimals but a second number (1.9, 1.10).
    """
    files = list(files)
    numbers = [_NUMBERED.fullmatch(file.stem) for file in files]
    if all(numbers) and len({(n[1], n[4]) for n in numbers}) == 1:
        parts = [n[3] for n in numbers if n[3] is not None]
        several = len({len(part) for part in parts}) > 1
        if not (several and any(len(part) > 1 and part.endswith("0") for part in parts)):
            values = [Decimal(f"{n[2]}.{n[3] or 0}") for n in numbers]
            order = sorted(range(len(files)), key=lambda i: (values[i], files[i].stem))
            return [files[i] for i in order]
    return sorted(files, key=_natural)


def _is_folder(file: epath.Path) -> bool:
    return "://" not in str(file) and file.is_dir()  # a store has no folders, and asking takes time


def _natural(path: epath.Path) -> list[tuple[int, int, str]]:
    parts = re.findall(r"\d+|\D+", path.stem)
    return [(0, int(part), part) if part.isdecimal() else (1, 0, part) for part in parts]


def _check_range(pixels: np.ndarray | None, where: str) -> None:
    """12 bits in a file of 16 are nearly black when the lower eight are dropped."""
    top = 0 if pixels is None else int(pixels.max())
    if 0 < top < FEW_BITS:
        raise ValueError(
            f"{where}: a frame of 16 bits whose values end at {top} of 65535 would be black; are"
            f" they of {top.bit_length()} bits? Scale all frames alike to 0..65535 or 8 bits, e.g."
            f" mogrify -evaluate multiply {2 ** (16 - max(8, top.bit_length()))} *{where[-4:]}"
        )


def _open_folder(folder: epath.Path) -> FrameSource:
    files = list_frames(folder)
    if not files:
        raise ValueError(
            f"{folder}: the folder holds no image; expected files ending in"
            f" {', '.join(IMAGE_SUFFIXES)}"
        )
    by_stem: dict[str, epath.Path] = {}
    for file in files:
        other = by_stem.setdefault(file.stem, file)
        if other is not file:
            raise ValueError(
                f"{folder}: {other.name} and {file.name} would be the same frame; keep one"
            )

    def read(wanted):
        turned, listed = 0, list(by_stem.items())
        for stem, file in listed if wanted is None else [listed[index] for index in wanted]:
            frame, turn = read_turned(file)
            turned += turn != 1
            yield stem, str(file), frame
        if turned:
            note(
                f"{folder}: {turned} frames were turned as their EXIF orientation says, as viewers"
                " do; results lie like the turned frames"
            )

    return FrameSource(
        str(folder),
        image_facts(files[0])[0],
        len(files),
        read,
        turn=lambda stem: image_facts(by_stem[stem])[1],
        stems=list(by_stem),
    )


def _open_video(path: Path) -> FrameSource:
    header = read_header(path)
    return FrameSource(
        str(path),
        header.size,
        header.length,
        lambda wanted: decoded_frames(path, header, wanted),
        turn=lambda stem: header.turn,
        fps=header.fps,
    )
