"""The frames of a video file, decoded one after the other with OpenCV."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from vos_jax.notes import note

AHEAD = 50  # reads after one that failed: does the video go on?
FEWEST_BYTES = 16  # of a frame, with its entry in the index
_TURNS = {90: 6, 270: 8}  # degrees in a header -> orientation of EXIF; 180 keeps the size


class Header(NamedTuple):
    """What a video file tells before its frames are decoded.

    size: (H, W) of the first frame, turned. length: number of frames, None where it is not told or
    impossible. fps: frames per second, None where it is not told. turn: orientation of EXIF by
    which frames are turned, where that exchanges height and width.
    """

    size: tuple[int, int]
    length: int | None
    fps: float | None
    turn: int


def read_header(path: Path) -> Header:
    """Raises ValueError for what is no video, or has no frame that can be decoded."""
    capture = cv2.VideoCapture(str(path))
    try:
        good, frame = capture.read()
        length, fps = capture.get(cv2.CAP_PROP_FRAME_COUNT), capture.get(cv2.CAP_PROP_FPS)
        degrees = capture.get(cv2.CAP_PROP_ORIENTATION_META)
    finally:
        capture.release()
    if not good:
        raise ValueError(
            f"{path}: cannot be read as a video; give a folder of images, or convert it with ffmpeg"
        )
    possible = 0 < length <= path.stat().st_size / FEWEST_BYTES
    return Header(
        frame.shape[:2],
        int(length) if possible else None,
        float(fps) if math.isfinite(fps) and 0 < fps <= 1000 else None,
        _TURNS.get(round(degrees) % 360, 1),
    )


def decoded_frames(
    path: Path, header: Header, wanted: Sequence[int] | None = None
) -> Iterator[tuple[str, str, np.ndarray]]:
    """(stem, where, uint8 [H, W, 3] RGB) of every frame; stems are 00000, 00001, ...

    wanted: only frames of these numbers, ascending; nothing after them is looked at.

    The end of a video is where nothing more can be decoded. The user is told if the
    header promised more. Raises ValueError where frames go on after one that cannot be decoded:
    all of them would get a wrong number.
    """
    capture, number = cv2.VideoCapture(str(path)), 0
    try:
        good, frame = capture.read()
        while good:
            if wanted is None or number in wanted:
                rgb = cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
                yield f"{number:05d}", f"{path}, frame {number}", rgb
            if wanted is not None and number >= wanted[-1]:
                return
            number += 1
            good, frame = capture.read()
        if any(capture.read()[0] for _ in range(AHEAD)):
            raise ValueError(
                f"{path}: damaged: frame {number} cannot be decoded but later ones can, and they"
                " would get wrong numbers; mend it once with"
                f" ffmpeg -err_detect ignore_err -i {path.name} mended.mp4"
            )
    finally:
        capture.release()
    if header.length is not None and number < header.length:
        note(
            f"{path}: ended after {number} frames, its header tells {header.length}: is the file"
            " cut off or damaged? (Videos with an edit list or a varying frame rate tell a few too"
            " many, too.)"
        )
