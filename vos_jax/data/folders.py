"""What the readers of data sets in folders share. Everything here pickles, so that worker
processes can be handed the videos.
"""

import codecs
import json
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import PurePosixPath
from typing import Any, TypeVar

import numpy as np
from etils import epath

from vos_jax.data.clip import Objects
from vos_jax.data.frames import image_facts, list_frames, read_turned

T = TypeVar("T")
_IN_NAMES = "[^\\0\ud800-\udfff]*"  # what can be in names of files


def read_at(read: Callable[[epath.Path], T], files: Sequence[epath.Path], t: int) -> T:
    """read(files[t]); bind the first two with functools.partial to get a Video's load function."""
    return read(files[t])


class PairedFiles:
    """The frames and masks of a video, each in a file that is asked for once.

    A mask is turned like its frame. How that was turned is remembered where it was read before its
    mask, so that on a remote store the mask takes no second request for the frame.
    """

    def __init__(
        self,
        frames: Sequence[epath.Path],
        masks: Sequence[epath.Path],
        read_mask: Callable[..., np.ndarray],
    ):
        self._frames, self._masks, self._read_mask = frames, masks, read_mask
        self._facts: dict[int, tuple[tuple[int, int], int]] = {}  # size and orientation

    def frame(self, t: int) -> np.ndarray:
        """Frame t, uint8 [H, W, 3] RGB, upright."""
        image, turn = read_turned(self._frames[t])
        self._facts[t] = image.shape[:2], turn
        return image

    def mask(self, t: int) -> np.ndarray:
        """The mask of frame t: read_mask(file, size=, turn=) where the frame is turned.

        A frame that lies as it is stored leaves the size to who reads both.
        """
        if t not in self._facts:
            self._facts[t] = image_facts(self._frames[t])
        size, turn = self._facts[t]
        file = self._masks[t]
        return self._read_mask(file) if turn == 1 else self._read_mask(file, size=size, turn=turn)


def read_text(path: epath.Path) -> str:
    """A text file in UTF-8, or in UTF-16 if it says so, without its byte order mark.

    Raises ValueError for any other encoding.
    """
    data = path.read_bytes()
    utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return data.decode("utf-16" if utf16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path}: expected text in UTF-8, found the byte {data[error.start]:#04x} at"
            f" {error.start}; save the file as UTF-8"
        ) from None


def read_json(path: epath.Path) -> Any:
    """The content of a JSON file; ValueError where it is none."""
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: not a readable JSON file: {error}; is it cut off?") from error


def read_lines(path: epath.Path) -> list[str]:
    """The lines of a list, without blanks around them; empty ones are left out."""
    return [line.strip() for line in read_text(path).splitlines() if line.strip()]


def inner_name(name: str, where: str, parts: int | None = None) -> str:
    """The name of a file or folder that a list takes from a folder, as it is; `where` it stands.

    parts: how many, with / between. Raises ValueError for one that leads out of the folder, or is
    none: results are written under such names, too.
    """
    found = PurePosixPath(name).parts
    right = parts is None or len(found) == parts
    if not found or not right or {"/", ".."} & set(found) or not re.fullmatch(_IN_NAMES, name):
        raise ValueError(f"{where}: expected the name of a file or folder in it, found {name!r}")
    return name


def require_folders(folders: Iterable[epath.Path], layout: str) -> None:
    """Raise FileNotFoundError for the first folder that is missing; `layout` says what it needs."""
    for folder in folders:
        if not folder.is_dir():
            found = (
                sorted(f.name for f in folder.parent.iterdir()) if folder.parent.is_dir() else []
            )
            raise FileNotFoundError(
                f"{folder}: no such folder; {layout}; {folder.parent} holds {some(found)}"
            )


def subfolders(folder: epath.Path) -> list[epath.Path]:
    """The folders in a folder, hidden ones left out, sorted by name."""
    inside = (f for f in folder.iterdir() if f.is_dir() and not f.name.startswith("."))
    return sorted(inside, key=lambda f: f.name)


def frames_of(folder: epath.Path) -> list[epath.Path]:
    """The images of a folder in natural order; ValueError for none, or two of one stem."""
    files = list_frames(folder)
    if not files:
        raise ValueError(f"{folder}: the folder holds no frame; is the download complete?")
    stems = [file.stem for file in files]
    if len(set(stems)) < len(stems):
        double = sorted({stem for stem in stems if stems.count(stem) > 1})
        raise ValueError(
            f"{folder}: expected one image per frame, found several called {some(double)}; keep"
            " one of each"
        )
    return files


def by_number(files: Iterable[epath.Path]) -> dict[int, epath.Path]:
    """Files by the last number in their stems: bear01_0020_gt.ppm and bear01_0020.jpg are 20.

    Raises ValueError for a name without a number, or two files of one number.
    """
    found: dict[int, epath.Path] = {}
    for file in files:
        digits = re.findall(r"\d+", file.stem)
        if not digits:
            raise ValueError(f"{file}: expected a frame number in the name, found none; rename it")
        number = int(digits[-1])
        if number in found:
            raise ValueError(
                f"{file}: this and {found[number].name} would both be frame {number}; keep one"
            )
        found[number] = file
    return found


def one_object(
    given: int, scored: np.ndarray, size: tuple[int, int], category: str | None = None
) -> Objects:
    """A single object of id 1. given: its frame. scored: bool [T]. size: (H, W)."""
    handed = np.zeros((len(scored), 1), bool)
    handed[given] = True
    categories = None if category is None else [category]
    return Objects(np.array([1], np.int32), handed, scored[:, None].copy(), categories, size)


def some(names: Sequence[str]) -> str:
    """Up to three names and how many more there are, for messages."""
    shown = ", ".join(names[:3])
    return (shown or "none") + (f" and {len(names) - 3} more" if len(names) > 3 else "")
