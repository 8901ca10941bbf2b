"""One walk through a batch of videos: all methods, frame by frame, each frame read once.

While a device works on a frame, the one before is scored and written, and the next one is read.
Each video has a thread for either, so its frames stay in order.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any, NamedTuple

import numpy as np

from vos_jax.data.clip import Video
from vos_jax.evaluating.methods import Answer, Method, Together, Unguided
from vos_jax.inference.writers import FrameResult, Writer
from vos_jax.metrics.floors import given_labels
from vos_jax.metrics.protocols import Protocol
from vos_jax.metrics.scorer import SequenceScorer
from vos_jax.metrics.scores import ObjectScores


def walk(
    videos: Sequence[Video],
    protocol: Protocol,
    together: Mapping[str, Together],
    apart: Mapping[str, Mapping[str, Method]],
    first: str,
    open_writers: Callable[[ExitStack, str], Sequence[Writer]],
) -> dict[str, list[ObjectScores]]:
    """Scores of every method for the objects of videos that can go together.

    Args:
        videos: those of a batch of `plan.batches`.
        together: methods that take all of them at once.
        apart: video -> methods that take it by itself.
        first: the method whose label maps go to the writers.
        open_writers: those of a video, entered into a stack.

    Raises ValueError for masks that do not have their frame's size and for wrong label maps.
    """
    with ExitStack() as stack:
        tracks = []
        for video in videos:
            writers = open_writers(stack, video.name)
            names = [*together, *apart[video.name]]
            track = _Track(video, protocol, names, apart[video.name], first, writers)
            stack.callback(track.close)
            tracks.append(track)
        steppers = {name: method(videos) for name, method in together.items()}
        for t in range(max(map(len, videos))):
            frames = [track.frame(t) for track in tracks]
            answers = {
                name: _dispatch(stepper, together[name].guided, frames)
                for name, stepper in steppers.items()
            }
            for row, (track, frame) in enumerate(zip(tracks, frames, strict=True)):
                if frame is not None:
                    track.finish(frame, {name: rows[row] for name, rows in answers.items()})
        scores: dict[str, list[ObjectScores]] = {}
        for track in tracks:
            for name, found in track.scores().items():
                scores.setdefault(name, []).extend(found)
        return scores


class _Frame(NamedTuple):
    """A frame of a video: its number, pixels, annotation if it is needed, and what is given of it.

    started: whether any mask has been given so far.
    """

    t: int
    pixels: np.ndarray
    truth: np.ndarray | None
    handed: np.ndarray | None
    started: bool


def _dispatch(
    stepper: Any, guided: bool, frames: Sequence[_Frame | None]
) -> Sequence[Answer | None]:
    """The answers of the videos; None is background, while no mask has been given."""
    pixels = [None if frame is None else frame.pixels for frame in frames]
    nothing = [None] * len(frames)
    if not guided:
        return stepper.dispatch(pixels, nothing)
    if not any(frame is not None and frame.started for frame in frames):
        return nothing
    handed = [None if frame is None else frame.handed for frame in frames]
    return stepper.dispatch(pixels, handed)


class _Track:
    """One video: reads its frames ahead, and scores and writes them afterwards."""

    def __init__(
        self,
        video: Video,
        protocol: Protocol,
        names: Sequence[str],
        methods: Mapping[str, Method],
        first: str,
        writers: Sequence[Writer],
    ):
        self._video, self._first, self._writers = video, first, writers
        self._steppers = {name: method(video) for name, method in methods.items()}
        self._scorers = {name: SequenceScorer.of(protocol, video) for name in names}
        self._reader, self._finisher = ThreadPoolExecutor(1), ThreadPoolExecutor(1)
        self._started = False
        self._next = self._reader.submit(self._read, 0)
        self._finishing: list[Future] = []

    def frame(self, t: int) -> _Frame | None:
        """Frame t, the one after the last; None once the video is over."""
        if t >= len(self._video):
            return None
        frame = self._next.result()
        if t + 1 < len(self._video):
            self._next = self._reader.submit(self._read, t + 1)
        return frame

    def finish(self, frame: _Frame, answers: Mapping[str, Answer | None]) -> None:
        """Score and write a frame, while others go on; at most one more is waiting for that."""
        self._finishing.append(self._finisher.submit(self._finish, frame, answers))
        while len(self._finishing) > 1:
            self._finishing.pop(0).result()

    def scores(self) -> dict[str, list[ObjectScores]]:
        """Of every method, once all frames are finished."""
        while self._finishing:
            self._finishing.pop(0).result()
        return {name: scorer.scores() for name, scorer in self._scorers.items()}

    def close(self) -> None:
        """Ends the threads; what they have not begun is dropped."""
        for pool in (self._reader, self._finisher):
            pool.shutdown(cancel_futures=True)

    def _read(self, t: int) -> _Frame:
        video, pixels = self._video, self._video.frame(t)
        given = np.asarray(video.given[t])
        truth = video.mask(t) if given.any() or np.any(video.scored[t]) else None
        if truth is not None and truth.shape != pixels.shape[:2]:
            raise ValueError(
                f"{video.mask_files[t]}: expected a mask of the frame's size {pixels.shape[:2]}, "
                f"found {truth.shape}; use masks and frames of one resolution"
            )
        handed = None if truth is None else given_labels(truth, video.ids, given)
        self._started = self._started or handed is not None
        return _Frame(t, pixels, truth, handed, self._started)

    def _finish(self, frame: _Frame, answers: Mapping[str, Answer | None]) -> None:
        nothing = np.zeros(frame.pixels.shape[:2], np.uint8)
        for name, answer in answers.items():
            self._take(name, frame, nothing if answer is None else answer())
        for name, stepper in self._steppers.items():
            labels = nothing
            if isinstance(stepper, Unguided):
                labels = stepper.stepper.step(frame.pixels)
            elif frame.started:
                labels = stepper.step(frame.pixels, frame.handed)
            self._take(name, frame, labels)

    def _take(self, name: str, frame: _Frame, labels: np.ndarray) -> None:
        stem = self._video.frame_names[frame.t]
        where = f"{name}, {self._video.name}, frame {stem}"
        _check_labels(labels, frame.pixels, where)
        if name == self._first:
            for writer in self._writers:
                writer.write(FrameResult(stem, frame.pixels, labels))
        if np.any(self._video.scored[frame.t]):
            self._scorers[name].add(frame.t, frame.truth, labels, where)


def _check_labels(labels: np.ndarray, frame: np.ndarray, where: str) -> None:
    if labels.shape != frame.shape[:2] or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"{where}: expected an integer label map of shape {frame.shape[:2]}, found "
            f"{labels.dtype} {labels.shape}"
        )
