"""The masks that a user gives for a video of their own: one for its first frame, or a folder."""

from collections.abc import Sequence

import numpy as np
from etils import epath

from vos_jax.data.clip import object_ids
from vos_jax.data.frames import FrameSource, list_images
from vos_jax.data.masks import read_mask


class GivenMasks:
    """Masks by frame stem, read when their frame comes.

    Args:
        path: one image, the mask of the first frame whatever its name, or a folder of <stem>.png.
        stems: the stems of all frames, in time order, or the first only, when `complete` is False.
        complete: whether the stems are all there are; a video file may not know its length.

    Raises:
        FileNotFoundError: nothing at `path`, or no .png in the folder.
        ValueError: mask files whose stem is no frame's.
    """

    def __init__(self, path: epath.PathLike, stems: Sequence[str], complete: bool = True):
        self.path = epath.Path(path)
        if self.path.is_dir():
            files = sorted(self.path.glob("*.png"))
            self._files = {file.stem: file for file in files if not file.name.startswith(".")}
        elif self.path.exists():
            self._files = {stems[0]: self.path}
        else:
            raise FileNotFoundError(f"no mask at {path}: expected a PNG file or a folder of them")
        if not self._files:
            raise FileNotFoundError(f"{path} holds no .png mask")
        if complete:
            self.check_stems(stems)

    def at(self, stem: str, size: tuple[int, int]) -> np.ndarray | None:
        """The mask of a frame, uint8 [H, W], or None.

        Raises ValueError unless it has the frame's `size` (H, W).
        """
        file = self._files.get(stem)
        if file is None:
            return None
        return read_mask(file, size)

    def ids(self) -> list[int]:
        """All object ids of all masks, ascending. Reads every mask."""
        return sorted({i for file in self._files.values() for i in object_ids(read_mask(file))})

    def check_stems(self, stems: Sequence[str]) -> None:
        """Raises ValueError when a mask has the stem of no frame."""
        known = set(stems)
        unknown = [file.name for stem, file in self._files.items() if stem not in known]
        if unknown:
            shown = ", ".join(unknown[:5]) + (" ..." if len(unknown) > 5 else "")
            raise ValueError(
                f"{self.path}: {len(unknown)} of {len(self._files)} masks match no frame: {shown}; "
                f"the frames are called {stems[0]} to {stems[-1]}, a mask has its frame's name "
                "with the ending .png"
            )


def frame_stems(frames: FrameSource) -> tuple[list[str], bool]:
    """The stems of all frames without reading them, and whether they are known to be all."""
    if epath.Path(frames.path).is_dir():
        return [file.stem for file in list_images(frames.path)], True
    return [f"{t:05d}" for t in range(frames.length or 1)], frames.length is not None
