"""A video being annotated: its masks on disk, which of them are drawn by hand, and propagation.

The folder holds <frame stem>.png for every frame that has a mask, each written whole as it comes,
and annotation.json with the stems of those that were drawn or corrected by hand. Whoever opens the
folder again goes on where it was left. Nothing here knows of HTTP.

A stem is listed before its drawing is written: whenever the process dies, no drawing is taken for
one that propagation may replace.
"""

import os
import struct
import threading
from typing import Any

import numpy as np
from etils import epath

from vos_jax.checkpoint_folder import read_json, write_json
from vos_jax.data.clip import object_ids
from vos_jax.data.frames import FrameSource
from vos_jax.data.masks import decode_mask, read_mask, write_mask
from vos_jax.inference.streaming import VideoSegmenter
from vos_jax.inference.writers import prepare_folder

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None

STATE = "annotation.json"
_PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"


class Busy(ValueError):
    """Not while masks are propagated."""


class Session:
    """All methods may be called from several threads.

    Args:
        segmenter: of a system that takes masks; only propagation uses it.
        frames: a folder's, so that any frame can be read alone.
        folder: a new or empty one, or one of an earlier session with the same frames.

    Raises:
        FileExistsError: the folder holds something else.
        ValueError: a mask of it that is none, or of another size; another session has it open.
    """

    def __init__(self, segmenter: VideoSegmenter, frames: FrameSource, folder: epath.PathLike):
        self._segmenter, self._frames = segmenter, frames
        self.stems, self.size = list(frames.stems), frames.size
        self._lock = threading.RLock()
        self._thread, self._stopping = None, threading.Event()
        self._at, self._error = 0, ""
        known = (epath.Path(folder) / STATE).exists()
        self._folder = prepare_folder(folder, overwrite=known)
        self._claim = _claimed(self._folder)
        hand = read_json(self._folder / STATE).get("by_hand", []) if known else []
        self._done = {t for t in range(len(self)) if self._file(t).exists()}
        self._hand = {t for t in self._done if self.stems[t] in hand}
        for t in sorted(self._done):
            read_mask(self._file(t), self.size)
        self._write_state()

    def close(self) -> None:
        """Ends propagation, and lets another session have the folder."""
        self.stop()
        self.wait()
        if self._claim is not None:
            os.close(self._claim)
            self._claim = None

    def __len__(self) -> int:
        return len(self.stems)

    def frame(self, t: int) -> np.ndarray:
        """uint8 [H, W, 3] RGB."""
        return self._frames.pick([t])[0]

    def mask(self, t: int) -> np.ndarray:
        """uint8 [H, W]; all background where there is none yet."""
        with self._lock:
            if t not in self._done:
                return np.zeros(self.size, np.uint8)
            return read_mask(self._file(t), self.size)

    def draw(self, t: int, png: bytes) -> None:
        """Keep a mask drawn by hand, the bytes of a PNG file.

        Raises Busy during propagation; ValueError unless it is a clean mask of the frames' size.
        """
        where = f"the mask drawn in frame {self.stems[t]}"
        found = struct.unpack(">II", png[16:24])[::-1] if png[:16] == _PNG and png[24:] else None
        if found != self.size:  # before anything is decoded
            raise ValueError(f"{where}: expected a PNG of {self.size}, found {found or 'none'}")
        labels = decode_mask(png, where, self.size)
        with self._lock:
            self._check_idle()
            before = set(self._hand)
            self._hand.add(t)
            self._write_state()
            try:
                write_mask(self._file(t), labels)
            except BaseException:
                self._hand = before  # the file may list more: that keeps a mask, and loses none
                raise
            self._done.add(t)

    def remove(self, t: int) -> None:
        """Leave a frame without a mask, as before anything was drawn in it."""
        with self._lock:
            self._check_idle()
            self._file(t).unlink(missing_ok=True)
            self._done.discard(t)
            self._hand.discard(t)
            self._write_state()

    def release(self, t: int) -> None:
        """Let propagation replace the mask of a frame that was drawn by hand."""
        with self._lock:
            self._check_idle()
            self._hand.discard(t)
            self._write_state()

    def propagate(self, t: int) -> None:
        """Begin to segment the frames after `t` from its mask, in a thread of its own.

        Masks drawn by hand in later frames are handed to the system there, and stay as they are.
        Raises Busy if it runs already; ValueError where frame `t` shows no object.
        """
        with self._lock:
            self._check_idle()
            mask = self.mask(t)
            if not object_ids(mask):
                raise ValueError(f"frame {self.stems[t]} shows no object yet: paint one first")
            self._stopping.clear()
            self._at, self._error = t, ""
            self._thread = threading.Thread(target=self._run, args=(t, mask), daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """End propagation after the present frame, without waiting."""
        self._stopping.set()

    def wait(self) -> None:
        """Until propagation has ended."""
        thread = self._thread
        if thread is not None:
            thread.join()

    def state(self) -> dict[str, Any]:
        """What a page shows: size, frames with a mask, by hand; whether and where it propagates."""
        with self._lock:
            return {
                "size": list(self.size),
                "stems": self.stems,
                "done": sorted(self._done),
                "by_hand": sorted(self._hand),
                "running": self._running(),
                "at": self._at,
                "error": self._error,
            }

    def _run(self, first: int, mask: np.ndarray) -> None:
        t = first
        try:
            self._segmenter.reset()
            self._segmenter.step(self.frame(first), mask)
            for t in range(first + 1, len(self)):
                if self._stopping.is_set():
                    break
                given = self.mask(t) if t in self._hand else None
                labels = self._segmenter.step(self.frame(t), given)
                with self._lock:
                    if given is None:
                        write_mask(self._file(t), labels)
                    self._done.add(t)
                    self._at = t
        except Exception as error:  # the thread ends; whoever asks for the state is told
            with self._lock:
                self._error = f"propagation ended at frame {self.stems[t]}: {error}"
        finally:
            with self._lock:
                self._thread = None

    def _running(self) -> bool:
        return self._thread is not None

    def _check_idle(self) -> None:
        if self._running():
            raise Busy("masks are being propagated: stop it first")

    def _file(self, t: int) -> epath.Path:
        return self._folder / f"{self.stems[t]}.png"

    def _write_state(self) -> None:
        hand = [self.stems[t] for t in sorted(self._hand)]
        write_json(self._folder / STATE, {"by_hand": hand})


def _claimed(folder: epath.Path) -> int | None:
    """Holds a folder until the descriptor is closed, or the process ends; None where no lock is.

    Raises ValueError where another session holds it: each would list its own drawings alone.
    """
    if fcntl is None:
        return None
    claim = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(claim)
        raise ValueError(f"{folder}: another session has it open; end that one first") from None
    except OSError:  # a file system without locks
        os.close(claim)
        return None
    return claim
