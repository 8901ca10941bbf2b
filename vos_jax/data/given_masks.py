"""The masks that a user gives for a video of their own: one for its first frame, or a folder."""

import zlib
from collections.abc import Sequence

import numpy as np
from etils import epath

from vos_jax.data.clip import object_ids
from vos_jax.data.frames import FrameSource, list_masks
from vos_jax.data.masks import read_mask

FIRST_OF_VIDEO = "00000"


class GivenMasks:
    """Masks by frame stem, each read once: when its frame comes, or before, when ids are asked for.

    Args:
        path: one image, the mask of the first frame whatever its name, or a folder of <stem>.png.
        frames: the frames they are for.

    Raises:
        FileNotFoundError: nothing at `path`, or no .png in the folder.
        ValueError: mask files whose stem is no frame's.
    """

    def __init__(self, path: epath.PathLike, frames: FrameSource):
        self.path = epath.Path(path)
        self._frames = frames
        self._waiting: dict[str, bytes] = {}  # masks read before their frame, compressed
        if self.path.is_dir():
            self._files = {file.stem: file for file in list_masks(self.path)}
        elif self.path.exists():
            first = FIRST_OF_VIDEO if frames.stems is None else frames.stems[0]
            self._files = {first: self.path}
        else:
            raise FileNotFoundError(f"no mask at {path}: expected a PNG file or a folder of them")
        if not self._files:
            raise FileNotFoundError(f"{path} holds no .png mask")
        if frames.stems is not None:
            self.check_stems(frames.stems)
        else:
            self._check_numbers()

    def at(self, stem: str, size: tuple[int, int]) -> np.ndarray | None:
        """The mask of a frame, uint8 [H, W], or None.

        Raises ValueError unless it has the frame's `size` (H, W) and tells how it lies.
        """
        if stem not in self._files:
            return None
        if stem in self._waiting and size == self._frames.size:
            mask = np.frombuffer(zlib.decompress(self._waiting.pop(stem)), np.uint8)
            return mask.reshape(size)
        return read_mask(self._files[stem], size, turn=self._frames.turn(stem))

    def name(self, stem: str) -> str:
        """The file of a frame's mask, for messages."""
        return str(self._files[stem])

    def ids(self) -> list[int]:
        """All object ids of all masks, ascending. Reads every mask, to be called once."""
        found: set[int] = set()
        for stem in self._files:
            mask = self.at(stem, self._frames.size)
            found.update(object_ids(mask))
            self._waiting[stem] = zlib.compress(mask.tobytes(), level=1)
        return sorted(found)

    def check_stems(self, stems: Sequence[str]) -> None:
        """Raises ValueError when a mask has the stem of no frame."""
        known = set(stems)
        unknown = [file.name for stem, file in self._files.items() if stem not in known]
        self._refuse(unknown, f"the frames are called {stems[0]} to {stems[-1]}")

    def _check_numbers(self) -> None:
        """Before the frames of a video file are counted: does its mask's name look like theirs?"""
        wrong = [
            file.name
            for stem, file in self._files.items()
            if not (stem.isdecimal() and stem == f"{int(stem):05d}")
        ]
        self._refuse(wrong, f"the frames of a video are called {FIRST_OF_VIDEO}, 00001, ...")

    def _refuse(self, unknown: list[str], names: str) -> None:
        if unknown:
            shown = ", ".join(unknown[:5]) + (" ..." if len(unknown) > 5 else "")
            raise ValueError(
                f"{self.path}: {len(unknown)} of {len(self._files)} masks match no frame: {shown}; "
                f"{names}, a mask has its frame's name with the ending .png"
            )
