"""The frames that annotations are of: a folder of images, or a video file."""

import abc
from collections.abc import Collection
from pathlib import PurePosixPath

import cv2
from etils import epath

from vos_jax.data.folders import frames_of, some
from vos_jax.data.frames import image_facts, open_frames
from vos_jax.files import write_whole

QUALITY = 95  # of JPEGs made from the frames of a video


class Frames(abc.ABC):
    """Frames of one sequence. path: where they lie. stems: their names in time order."""

    path: str
    stems: list[str]

    @abc.abstractmethod
    def size(self, stem: str) -> tuple[int, int]:
        """(H, W) of a frame."""

    @abc.abstractmethod
    def write(self, stems: Collection[str], folder: epath.Path) -> None:
        """Writes these frames into a folder."""

    def checked(self, name: str, where: str) -> str:
        """The stem of the frame with a file name; ValueError that begins with `where`."""
        stem = inside(name, where).stem
        if stem not in self.stems:
            raise ValueError(
                f"{where}: there is no frame {stem!r} in {self.path}, which holds"
                f" {some(self.stems)}"
            )
        return stem

    def check_size(self, stem: str, size: tuple[int, int], where: str) -> None:
        """Raises ValueError unless the annotation is for frames of this (H, W)."""
        found = self.size(stem)
        if found != size:
            raise ValueError(
                f"{where}: annotated at {size[0]}x{size[1]} (height x width), the frame {stem} in"
                f" {self.path} is {found[0]}x{found[1]}; take the frames that were annotated"
            )


class FolderFrames(Frames):
    """The images of a folder, which are copied as they are."""

    def __init__(self, folder: epath.Path):
        self.path = str(folder)
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder}: no such folder of frames")
        self._files = {file.stem: file for file in frames_of(folder)}
        self.stems = list(self._files)
        self._sizes: dict[str, tuple[int, int]] = {}

    def size(self, stem: str) -> tuple[int, int]:
        if stem not in self._sizes:
            self._sizes[stem] = self._size(stem)
        return self._sizes[stem]

    def write(self, stems: Collection[str], folder: epath.Path) -> None:
        for stem in stems:
            file = self._files[stem]
            write_whole(folder / file.name, file.read_bytes())

    def _size(self, stem: str) -> tuple[int, int]:
        size, turn = image_facts(self._files[stem])
        if turn != 1:
            raise ValueError(
                f"{self._files[stem]}: turned by its EXIF orientation, {turn}, and annotations do"
                " not tell whether they were drawn on the turned frame; turn the frames for good"
                " (mogrify -auto-orient) and annotate those"
            )
        return size


class VideoFrames(Frames):
    """The frames of a video file, 00000, 00001, ..., which become JPEGs."""

    def __init__(self, path: epath.Path):
        self.path = str(path)
        self._source = open_frames(path)
        self.stems = [f"{t:05d}" for t in range(self._source.count())]

    def size(self, stem: str) -> tuple[int, int]:
        return self._source.size

    def write(self, stems: Collection[str], folder: epath.Path) -> None:
        wanted = set(stems)
        for stem, frame in self._source:
            if stem in wanted:
                quality = (cv2.IMWRITE_JPEG_QUALITY, QUALITY)
                data = cv2.imencode(".jpg", frame[..., ::-1], quality)[1]
                write_whole(folder / f"{stem}.jpg", data.tobytes())


def open_sequence(path: epath.PathLike) -> Frames:
    """The frames of a folder or video file; FileNotFoundError where there is neither."""
    place = epath.Path(path)
    if not place.exists():
        raise FileNotFoundError(f"{path}: no such folder of frames or video file")
    return FolderFrames(place) if place.is_dir() else VideoFrames(place)


def inside(name: str, where: str) -> PurePosixPath:
    """A relative path that an annotation file gives, which leads out of no folder."""
    path = PurePosixPath(str(name).replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or not path.name or ":" in path.parts[0]:
        raise ValueError(f"{where}: expected the name of a frame in its folder, found {name!r}")
    return path
