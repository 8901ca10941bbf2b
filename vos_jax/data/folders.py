"""What the readers of data sets in folders share. Everything here pickles, so that worker
processes can be handed the videos.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import numpy as np
from etils import epath

from vos_jax.data.clip import Objects
from vos_jax.data.frames import list_images

T = TypeVar("T")


def read_at(read: Callable[[epath.Path], T], files: Sequence[epath.Path], t: int) -> T:
    """read(files[t]); bind the first two with functools.partial to get a Video's load function."""
    return read(files[t])


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
    files = list_images(folder)
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
