"""Pictures of what a system goes by: its named maps beside the result, one sheet per frame.

A row for each object, in its colour; a column for the result and one for each map (`evidence` of
systems.base): FEELVOS's and CFBI's distances, STM's attention, the components of A-GAME.
"""

import cv2
import numpy as np
from etils import epath
from PIL import Image

from vos_jax.data.masks import davis_palette
from vos_jax.files import whole_file
from vos_jax.inference.overlay import overlay
from vos_jax.inference.writers import FrameResult, ResultFolder, Writer
from vos_jax.systems.base import VOSModel

WIDTH = 320  # of a cell, at most
TITLE = 18  # height of the line above a cell
GAP = 4
INK = (230, 230, 230)


def check_evidence(model: VOSModel) -> None:
    """Raises ValueError for a system that declares no maps."""
    system = type(getattr(model, "model", model))  # of views: the system's
    if system.evidence is VOSModel.evidence:
        raise ValueError(f"{system.__name__} has no maps to show: leave out --evidence")


class EvidenceWriter(Writer):
    """Sheets as PNG files, <folder>/<stem>.png; raises as `ResultFolder`.

    Frames before which no object was known, such as the first, have none.
    """

    def __init__(self, folder: epath.PathLike, overwrite: bool = False):
        self._folder = ResultFolder(folder, ".png", overwrite)

    def write(self, result: FrameResult) -> None:
        if not result.evidence:
            return
        with whole_file(self._folder.file(result.stem)) as file:
            Image.fromarray(sheet(result)).save(file, format="PNG")

    def close(self) -> None:
        self._folder.close()


def sheet(result: FrameResult) -> np.ndarray:
    """The sheet of a frame with `evidence`, uint8 [H', W', 3] RGB; values are cut to 0..1."""
    height, width = result.frame.shape[:2]
    cell = min(width, WIDTH)
    size = (cell, max(1, round(height * cell / width)))
    rows = []
    for row in range(len(next(iter(result.evidence.values())))):
        number = result.ids[row]
        shown = np.where(result.labels == number, number, 0)
        cells = [_titled(_resized(overlay(result.frame, shown), size), f"object {number}", number)]
        for name, maps in result.evidence.items():
            cells.append(_titled(_coloured(maps[row], size), name.replace("_", " "), number))
        rows.append(np.concatenate(cells, axis=1))
    return np.concatenate(rows)


def _resized(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def _coloured(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A map as an image: dark blue 0, yellow 1; its cells stay visible."""
    grey = np.rint(255 * np.clip(np.nan_to_num(values), 0, 1)).astype(np.uint8)
    colours = cv2.applyColorMap(grey, cv2.COLORMAP_VIRIDIS)[..., ::-1]
    return cv2.resize(colours, size, interpolation=cv2.INTER_NEAREST)


def _titled(image: np.ndarray, title: str, number: int) -> np.ndarray:
    """The image with a line of text above it and a mark in the object's colour."""
    colour = tuple(int(c) for c in np.asarray(davis_palette())[number])
    margins = (TITLE, GAP, 0, GAP)
    framed = cv2.copyMakeBorder(np.ascontiguousarray(image), *margins, cv2.BORDER_CONSTANT)
    cv2.rectangle(framed, (2, 5), (10, 13), colour, cv2.FILLED)
    place = (15, TITLE - 5)
    cv2.putText(framed, title, place, cv2.FONT_HERSHEY_SIMPLEX, 0.4, INK, 1, cv2.LINE_AA)
    return framed
