"""Videos with the objects coloured in, to look at a result: .mp4, .gif or a folder of PNG files."""

import os
import shutil
import struct
import tempfile
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from etils import epath
from PIL import Image

from vos_jax.data.clip import VOID
from vos_jax.data.masks import davis_palette
from vos_jax.files import is_remote, named_errors, whole_file
from vos_jax.inference.linking.base import DROPPED, Linked
from vos_jax.inference.writers import FrameResult, Mark, ResultFolder, Writer, new_file

OPACITY = 0.5  # of an object's colour
FPS = 24
GIF_WIDTH = 480
GIF_FRAMES = 240


def overlay(frame: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Colour the objects of a frame with the DAVIS palette and draw their outlines.

    The colour is half transparent; the outline, 1 pixel wide, is opaque.

    Args:
        frame: uint8 [H, W, 3] RGB.
        labels: integer [H, W], 0 background; 255 (void) is left uncoloured.

    Returns:
        uint8 [H, W, 3] RGB.
    """
    labels = np.where(labels == VOID, 0, labels).astype(np.uint8)
    inside = labels > 0
    colours = np.asarray(davis_palette(), np.uint8)[labels]
    painted = frame.copy()
    blend = (1 - OPACITY) * frame[inside] + OPACITY * colours[inside]
    painted[inside] = np.rint(blend).astype(np.uint8)
    border = _inner_border(labels) & inside
    painted[border] = colours[border]
    return painted


def mark_overlay(frame: np.ndarray, marks: Sequence[Mark]) -> np.ndarray:
    """Draw instances: masks half transparent with an outline, boxes, and a text at each box.

    The first mark lies on top; identities keep their colour from frame to frame.

    Args:
        frame: uint8 [H, W, 3] RGB.
        marks: the instances, best first.

    Returns:
        uint8 [H, W, 3] RGB.
    """
    painted = frame.copy()
    thick = max(1, round(min(frame.shape[:2]) / 240))
    for mark in reversed(marks):
        colour, mask = _colour(mark), np.asarray(mark.mask, bool)
        painted[mask] = np.rint((1 - OPACITY) * painted[mask] + OPACITY * colour).astype(np.uint8)
        painted[_inner_border(mask) & mask] = colour
    for mark in reversed(marks):
        x1, y1, x2, y2 = np.rint(mark.box).astype(int).tolist()
        ends = (x1, y1), (max(x1, x2 - 1), max(y1, y2 - 1))
        cv2.rectangle(painted, *ends, _colour(mark).tolist(), thick)
    for mark in reversed(marks):
        _write_text(painted, mark)
    return painted


def marks_of(linked: Linked, names: Sequence[str]) -> list[Mark]:
    """What to draw of a linked frame; names: of class 1, 2, ... Dropped detections are left out."""
    found = linked.found
    rows = zip(linked.ids, found.masks(), found.boxes, found.classes, found.scores, strict=True)
    return [
        Mark(int(i), mask, box, f"{i} {names[int(c) - 1]} {score:.2f}")
        for i, mask, box, c, score in rows
        if i != DROPPED
    ]


class OverlayWriter(Writer):
    """Overlays of a whole video, by the ending of `path`.

    .mp4: MPEG-4 video (full size, padded to even sides). .gif: at most 480 pixels wide and 240
    frames; longer videos keep every second, fourth, ... frame. No ending: a folder of PNG files.
    fps: frames per second of the video, None for 24.

    Raises:
        ValueError: another ending, or this OpenCV cannot write MPEG-4.
        FileExistsError: the target exists and `overwrite` is not set.
    """

    def __init__(self, path: epath.PathLike, overwrite: bool = False, fps: float | None = None):
        kinds = {".mp4": _Mp4, ".gif": _Gif, "": _PngFolder}
        ending = epath.Path(path).suffix.lower()
        if ending not in kinds:
            raise ValueError(
                f"{path}: overlays are written as .mp4, .gif or to a folder of PNG files (a name "
                f"without ending), found the ending {ending!r}"
            )
        self._target = kinds[ending](path, overwrite, fps or FPS)

    def write(self, result: FrameResult) -> None:
        if result.marks:
            image = mark_overlay(result.frame, result.marks)
        else:
            image = overlay(result.frame, result.labels)
        self._target.add(result.stem, image)

    def close(self) -> None:
        self._target.close()


class _PngFolder:
    def __init__(self, path: epath.PathLike, overwrite: bool, fps: float):
        self._folder = ResultFolder(path, ".png", overwrite)

    def add(self, stem: str, image: np.ndarray) -> None:
        with whole_file(self._folder.file(stem)) as file:
            Image.fromarray(image).save(file, format="PNG")

    def close(self) -> None:
        self._folder.close()


class _Gif:
    """Keeps small palette images until the end, since a GIF is saved in one go."""

    def __init__(self, path: epath.PathLike, overwrite: bool, fps: float):
        self._path, self._fps = new_file(path, overwrite), fps
        self._images: list[Image.Image] = []
        self._count, self._stride = 0, 1

    def add(self, stem: str, image: np.ndarray) -> None:
        if self._count % self._stride == 0:
            if len(self._images) == GIF_FRAMES:
                self._images = self._images[::2]
                self._stride *= 2
            if self._count % self._stride == 0:
                self._images.append(_small_palette_image(image))
        self._count += 1

    def close(self) -> None:
        if not self._images:
            return
        first, *rest = self._images
        with whole_file(self._path) as file:
            first.save(
                file,
                format="GIF",
                save_all=True,
                append_images=rest,
                # Viewers slow down anything below 20 ms.
                duration=max(20, round(1000 / self._fps * self._stride)),
                loop=0,
            )
        self._images = []


class _Mp4:
    """OpenCV writes local files by their names only, so the video grows in a file of its own."""

    def __init__(self, path: epath.PathLike, overwrite: bool, fps: float):
        self._path, self._fps = new_file(path, overwrite), fps
        beside = None if is_remote(self._path) else os.fspath(self._path.parent)
        with named_errors(self._path, own=True):
            self._scratch = tempfile.TemporaryDirectory(prefix=".overlay", dir=beside)
        self._growing = Path(self._scratch.name) / "overlay.mp4"
        self._video: cv2.VideoWriter | None = None

    def add(self, stem: str, image: np.ndarray) -> None:
        height, width = image.shape[:2]
        image = cv2.copyMakeBorder(image, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE)
        if self._video is None:
            self._video = self._open(image.shape[1], image.shape[0])
        self._video.write(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))

    def close(self) -> None:
        try:
            self._finish()
        finally:
            self._scratch.cleanup()

    def _finish(self) -> None:
        if self._video is not None:
            self._video.release()
            self._video = None
            if not _is_whole(self._growing):  # OpenCV does not tell when writing fails
                raise OSError(f"{self._path}: cannot be written to the end; is the disk full?")
            with self._growing.open("rb") as source, whole_file(self._path) as target:
                shutil.copyfileobj(source, target)

    def _open(self, width: int, height: int) -> cv2.VideoWriter:
        codec = cv2.VideoWriter_fourcc(*"mp4v")
        video = cv2.VideoWriter(str(self._growing), codec, self._fps, (width, height))
        if not video.isOpened():
            raise ValueError(
                f"{self._path}: this OpenCV build cannot write MPEG-4 video; name a .gif or a "
                "folder (no ending) instead"
            )
        return video


def _is_whole(path: Path) -> bool:
    """Whether the boxes of an MP4 end where the file does, those of frames and index among them."""
    kinds, at, size = set(), 0, path.stat().st_size
    with path.open("rb") as file:
        while at + 8 <= size:
            file.seek(at)
            length, kind = struct.unpack(">I4s", file.read(8))
            if length == 1:
                (length,) = struct.unpack(">Q", file.read(8).ljust(8, b"\0"))
            kinds.add(kind)
            at += max(length, 8)
    return at == size and {b"mdat", b"moov"} <= kinds


def _colour(mark: Mark) -> np.ndarray:
    """The colours of the palette in turn, without background and void."""
    return davis_palette()[1 + mark.id % (VOID - 1)]


def _write_text(image: np.ndarray, mark: Mark) -> None:
    """The text on a ground of the mark's colour, above its box where there is room."""
    height, width = image.shape[:2]
    scale = max(0.3, min(height, width) / 800)
    font, thick = cv2.FONT_HERSHEY_SIMPLEX, max(1, round(scale))
    (across, above), below = cv2.getTextSize(mark.text, font, scale, thick)
    x1, y1, _, y2 = np.rint(mark.box).astype(int).tolist()
    x = min(max(x1, 0), max(0, width - across))
    bottom = y1 if y1 >= above + below else min(y2 + above + below, height)
    colour = _colour(mark)
    corners = (x, bottom - above - below), (x + across - 1, bottom - 1)
    cv2.rectangle(image, *corners, colour.tolist(), cv2.FILLED)
    dark = colour @ np.array([0.299, 0.587, 0.114]) < 128  # luma of ITU-R BT.601
    ink = (255, 255, 255) if dark else (0, 0, 0)
    cv2.putText(image, mark.text, (x, bottom - below), font, scale, ink, thick, cv2.LINE_AA)


def _inner_border(labels: np.ndarray) -> np.ndarray:
    """Pixels with a neighbour (left, right, above, below) of another label; bool [H, W]."""
    border = np.zeros(labels.shape, bool)
    across, down = labels[:, 1:] != labels[:, :-1], labels[1:] != labels[:-1]
    border[:, 1:] |= across
    border[:, :-1] |= across
    border[1:] |= down
    border[:-1] |= down
    return border


def _small_palette_image(image: np.ndarray) -> Image.Image:
    height, width = image.shape[:2]
    small = Image.fromarray(image)
    if width > GIF_WIDTH:
        small = small.resize((GIF_WIDTH, max(1, round(height * GIF_WIDTH / width))), Image.BOX)
    # 70 times faster than the default median cut and no less true to the colours.
    return small.quantize(method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
