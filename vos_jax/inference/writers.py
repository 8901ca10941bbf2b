"""Writing what a segmenter returns, frame by frame: label maps, probabilities, maps per frame.

Every writer has `write(result)` and `close()`, is a context manager, refuses to write over what is
there unless told, and keeps what came before an interruption. Told to overwrite, it replaces files
of the names that it writes; it leaves others and names them. Paths may be remote (gs://).

K objects in ascending id order; channel 0 of probabilities is the background.
"""

import abc
import io
import os
import tempfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import BinaryIO

import numpy as np
from etils import epath

from vos_jax.data.folders import some
from vos_jax.data.masks import write_mask
from vos_jax.files import is_remote, named_errors, whole_file, write_whole
from vos_jax.notes import note

MAX_PROBABILITY_BYTES = 2_000_000_000
_CHUNK = 1 << 22


@dataclass(frozen=True)
class Mark:
    """An instance in a frame, to be drawn: id from 0, which chooses the colour; mask bool [H, W];
    box [4] corners x1 y1 x2 y2 in pixels; text beside the box.
    """

    id: int
    mask: np.ndarray
    box: np.ndarray
    text: str


@dataclass(frozen=True)
class FrameResult:
    """What is known about one frame after segmenting it.

    stem: file name without ending. frame: uint8 [H, W, 3] RGB. labels: uint8 [H, W] object ids.
    ids: [k] the objects known so far, in the channel order of `probabilities`, which computes
    float32 [k + 1, H, W] when called. evidence: named maps float32 [k, h, w] of what the system
    went by, of objects that were known before the frame, where they are asked for. marks:
    instances, whose masks may overlap.
    """

    stem: str
    frame: np.ndarray
    labels: np.ndarray
    ids: Sequence[int] = ()
    probabilities: Callable[[], np.ndarray] | None = None
    evidence: Mapping[str, np.ndarray] = field(default_factory=dict)
    marks: Sequence[Mark] = ()


class Writer(abc.ABC):
    """Base of the writers: a context manager that closes itself."""

    @abc.abstractmethod
    def write(self, result: FrameResult) -> None:
        """Take the next frame."""

    def close(self) -> None:  # noqa: B027 - most writers have nothing to finish
        """Finish the output; nothing can be written afterwards."""

    def __enter__(self):
        return self

    def __exit__(self, *_) -> None:
        self.close()


class ResultFolder:
    """A folder that gets one file per frame, <stem><ending>, and may hold those of another run.

    Raises FileExistsError when the folder holds anything and `overwrite` is not set, or is a file.
    """

    def __init__(self, folder: epath.PathLike, ending: str, overwrite: bool = False):
        self._folder = prepare_folder(folder, overwrite)
        self._ending = ending
        names = [file.name for file in self._folder.iterdir()] if overwrite else []
        self._earlier = {name for name in names if name.endswith(ending)}

    def file(self, stem: str) -> epath.Path:
        """The file of a frame, which is written next."""
        name = f"{stem}{self._ending}"
        self._earlier.discard(name)
        return self._folder / name

    def close(self) -> None:
        """Names the files of the same kind that were there before and were not replaced."""
        if self._earlier:
            note(
                f"{self._folder} also holds {len(self._earlier)} {self._ending} files of an earlier"
                f" run, which this one did not replace: {some(sorted(self._earlier))}"
            )
            self._earlier = set()


class MaskWriter(Writer):
    """Label maps as palette PNG files, <folder>/<stem>.png; raises as `ResultFolder`."""

    def __init__(self, folder: epath.PathLike, overwrite: bool = False):
        self._folder = ResultFolder(folder, ".png", overwrite)

    def write(self, result: FrameResult) -> None:
        write_mask(self._folder.file(result.stem), result.labels)

    def close(self) -> None:
        self._folder.close()


class MapWriter(Writer):
    """Probabilities of one frame per file, <folder>/<stem>.npz, for videos of any length.

    Each file holds `probabilities` float32 [K + 1, H, W] and `ids` int32 [K]. A channel is 0 in the
    frames before its object appears. Raises as `ResultFolder`.

    Args:
        folder: where the files go.
        ids: all objects of the video, also those that appear later.
    """

    def __init__(self, folder: epath.PathLike, ids: Sequence[int], overwrite: bool = False):
        self._folder = ResultFolder(folder, ".npz", overwrite)
        self._ids = _ascending(ids)

    def write(self, result: FrameResult) -> None:
        content = io.BytesIO()
        np.savez(content, probabilities=all_channels(result, self._ids), ids=self._ids)
        write_whole(self._folder.file(result.stem), content.getvalue())

    def close(self) -> None:
        self._folder.close()


class ProbabilityWriter(Writer):
    """All probabilities in one .npz: `probabilities` float32 [T, K + 1, H, W] and `ids` int32 [K].

    Frames go to disk as they come; closing joins them into the .npz. A channel is 0 in the frames
    before its object appears.

    Args:
        path: the .npz file.
        ids: all objects of the video, also those that appear later.
        num_frames: T, used to foresee the size, or None where a video file does not tell it.
        size: (H, W) of the frames.

    Raises:
        ValueError: another ending, or the file would exceed 2 GB; the message offers one file per
            frame.
        FileExistsError: the file exists and `overwrite` is not set.
    """

    def __init__(
        self,
        path: epath.PathLike,
        ids: Sequence[int],
        num_frames: int | None,
        size: tuple[int, int],
        overwrite: bool = False,
    ):
        if epath.Path(path).suffix != ".npz":
            raise ValueError(f"{path}: expected a name that ends in .npz for probabilities")
        self._path = new_file(path, overwrite)
        self._ids = _ascending(ids)
        self._shape = (len(self._ids) + 1, *size)
        self._check_size(num_frames or 1)
        self._frames = 0
        self._raw = _scratch_file(self._path)

    def write(self, result: FrameResult) -> None:
        self._check_size(self._frames + 1)
        channels = all_channels(result, self._ids)
        if channels.shape != self._shape:
            raise ValueError(
                f"{self._path}: frame {result.stem} has probabilities of shape {channels.shape}, "
                f"expected {self._shape}: all frames of a video have one size"
            )
        with named_errors(self._path):
            self._raw.write(channels.tobytes())
        self._frames += 1

    def close(self) -> None:
        if self._raw.closed:
            return
        if self._frames:
            with whole_file(self._path) as file, zipfile.ZipFile(file, "w") as archive:
                self._join(archive)
        self._raw.close()

    def _join(self, archive: zipfile.ZipFile) -> None:
        self._raw.seek(0)
        with archive.open("probabilities.npy", "w", force_zip64=True) as entry:
            shape = (self._frames, *self._shape)
            header = {"descr": "<f4", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(entry, header)
            while chunk := self._raw.read(_CHUNK):
                entry.write(chunk)
        with archive.open("ids.npy", "w") as entry:
            np.lib.format.write_array(entry, self._ids)

    def _check_size(self, frames: int) -> None:
        size = 4 * frames * int(np.prod(self._shape))
        if size > MAX_PROBABILITY_BYTES:
            channels, height, width = self._shape
            raise ValueError(
                f"{self._path}: probabilities of {frames} frames x {channels} channels x {height} "
                f"x {width} take {size / 1e9:.1f} GB, the limit for one file is "
                f"{MAX_PROBABILITY_BYTES / 1e9:.0f} GB; write one file per frame with --maps DIR"
            )


def all_channels(result: FrameResult, ids: np.ndarray) -> np.ndarray:
    """Probabilities of a frame with one channel per id of the whole video.

    Args:
        result: with `ids` and `probabilities`.
        ids: int [K] ascending ids of the video.

    Returns:
        float32 [K + 1, H, W]: background, then `ids` in order; 0 for objects not seen so far.
    """
    known = result.probabilities()
    unexpected = sorted(set(result.ids) - set(ids.tolist()))
    if unexpected:
        raise ValueError(
            f"frame {result.stem}: objects {unexpected} are not among the announced ids "
            f"{ids.tolist()}; give the writer every id of the video"
        )
    channels = np.zeros((len(ids) + 1, *known.shape[1:]), np.float32)
    places = [0, *(int(np.searchsorted(ids, i)) + 1 for i in result.ids)]
    channels[places] = known
    return channels


def prepare_folder(folder: epath.PathLike, overwrite: bool = False) -> epath.Path:
    """`folder`, created where it is missing; what it holds stays.

    Raises FileExistsError if it holds anything and `overwrite` is not set, or if it is a file.
    """
    folder = epath.Path(folder)
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{folder} is a file, expected a folder to write to")
    if not overwrite and folder.exists():
        first = next(folder.iterdir(), None)
        if first is not None:
            raise FileExistsError(
                f"{folder} is not empty (it holds {first.name}); choose an empty folder or allow "
                "overwriting (--overwrite)"
            )
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def new_file(path: epath.PathLike, overwrite: bool = False) -> epath.Path:
    """`path` with its folder created; FileExistsError if it exists and `overwrite` is not set."""
    path = epath.Path(path)
    if path.is_dir():
        raise FileExistsError(f"{path} is a folder, expected a file to write")
    if path.exists() and not overwrite:
        raise FileExistsError(
            f"{path} exists; choose another name or allow overwriting (--overwrite)"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _ascending(ids: Sequence[int]) -> np.ndarray:
    return np.unique(np.asarray(ids, np.int32))


def _scratch_file(path: epath.Path) -> BinaryIO:
    """A temporary file beside a local `path` (where the result must fit anyway)."""
    return tempfile.TemporaryFile(dir=None if is_remote(path) else os.fspath(path.parent))
