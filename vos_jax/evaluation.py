"""Run a model and the floors over annotated videos and score them the official way.

Videos are read frame by frame: memory does not grow with their length. All methods see the same
frames and given masks and are scored in the same frames, under the same protocol and by the same
functions as folders of results in `vos_jax.score`.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
from etils import epath
from tqdm import tqdm

from vos_jax.data.clip import Video
from vos_jax.inference.overlay import OverlayWriter
from vos_jax.inference.streaming import VideoSegmenter
from vos_jax.inference.writers import FrameResult, MaskWriter, Writer
from vos_jax.metrics import tables
from vos_jax.metrics.floors import CopyMask, NearestColour, given_labels
from vos_jax.metrics.protocols import PROTOCOLS, Protocol
from vos_jax.metrics.scorer import SequenceScorer
from vos_jax.metrics.scores import ObjectScores
from vos_jax.models.protocol import bucket

FLOORS = {"copy": CopyMask, "rgb": NearestColour}
MODEL = "model"

Predictor = Callable[[Video], Iterator[np.ndarray]]


@dataclass(frozen=True)
class Results:
    """Scores of every method on the same frames; the first method is the model's.

    methods: name -> one `ObjectScores` per object. settings: what was counted and how.
    """

    protocol: Protocol
    methods: dict[str, list[ObjectScores]]
    settings: dict[str, Any]

    @property
    def metrics(self) -> dict[str, dict[str, float]]:
        """Method -> the protocol's global numbers."""
        return {name: self.protocol.metrics(objects) for name, objects in self.methods.items()}

    def report(self) -> str:
        """The tables and the statement of what they count, as aligned text."""
        return "\n\n".join(
            [
                tables.sequence_table(self.protocol, self.methods),
                tables.method_table(self.protocol, self.methods),
                tables.statement(self.protocol, self.settings),
            ]
        )


def evaluate(
    model: Any,
    variables: Mapping[str, Any],
    videos: Iterable[Video],
    *,
    protocol: Protocol = PROTOCOLS["davis2017"],
    out_dir: epath.PathLike | None = None,
    segmenter: Callable[..., Any] = VideoSegmenter,
    floors: Sequence[str] = ("copy", "rgb"),
    predictors: Mapping[str, Predictor] | None = None,
    write_masks: bool = True,
    overlay: bool = True,
    overlay_format: str = "gif",
    max_objects: int | None = None,
    subset: str = "val",
    overwrite: bool = False,
    quiet: bool = False,
) -> Results:
    """Score a model beside the floors, print the tables and write the results.

    Args:
      model, variables: handed to `segmenter`.
      videos: `vos_jax.data.clip.Video`s; sorted so that equal frame sizes and object counts follow
        each other.
      out_dir: receives scores.json, the CSVs, tables.txt, masks/<video>/<stem>.png,
        overlays/<video>.gif and floors/<method>/ with the same files for every other method. None
        writes nothing.
      segmenter: `segmenter(model, variables, max_objects=n)` with `step(frame, masks)`, see
        `VideoSegmenter`.
      floors: any of "copy" and "rgb".
      predictors: further methods, name -> function of a video that yields its T label maps.
      write_masks, overlay, overlay_format: what to write of the model's label maps; "gif" or "mp4".
      max_objects: object slots of the segmenter; default: as many as the video has objects.
      subset: name of the set in the CSV names.
      overwrite: allow results that are already in `out_dir` to be replaced.
      quiet: print neither progress nor tables.

    Raises:
      ValueError: no video or no scored object; label maps of a wrong size; unknown floor.
      FileExistsError: results exist and `overwrite` is not set.
    """
    videos = _in_order(videos)
    methods = _methods(model, variables, segmenter, floors, predictors or {}, max_objects)
    out_dir = None if out_dir is None else epath.Path(out_dir)
    if out_dir is not None:
        tables.refuse_existing(out_dir, subset, overwrite)
    suffix = f".{overlay_format}" if overlay else None

    scores: dict[str, list[ObjectScores]] = {name: [] for name in methods}
    with tqdm(videos, desc="evaluate", unit="clip", disable=quiet or None) as progress:
        for video in progress:
            progress.set_postfix_str(video.name)
            with ExitStack() as stack:
                writers = []
                if out_dir is not None:
                    writers = _writers(stack, out_dir, video.name, write_masks, suffix, overwrite)
                for name, objects in _score_video(video, protocol, methods, writers).items():
                    scores[name] += objects

    results = Results(
        protocol,
        {name: sorted(objects, key=_official_order) for name, objects in scores.items()},
        {
            "set": subset,
            **tables.counts([SequenceScorer.of(protocol, video) for video in videos]),
        },
    )
    if out_dir is not None:
        _write(out_dir, results, subset, overwrite)
    if not quiet:
        print(results.report())
    return results


class _Iterated:
    """A predictor's label maps with the interface of a segmenter."""

    def __init__(self, maps: Iterator[np.ndarray]):
        self._maps = iter(maps)

    def step(self, frame: np.ndarray, masks: np.ndarray | None = None) -> np.ndarray:
        try:
            return next(self._maps)
        except StopIteration:
            raise ValueError("the predictor yields fewer label maps than frames") from None


class _FromFirstMask:
    """A segmenter that waits for the first given mask; before it all is background."""

    def __init__(self, segmenter: Any):
        self._segmenter = segmenter
        self._started = False

    def step(self, frame: np.ndarray, masks: np.ndarray | None = None) -> np.ndarray:
        self._started = self._started or masks is not None
        if not self._started:
            return np.zeros(frame.shape[:2], np.uint8)
        return self._segmenter.step(frame, masks)


def _methods(
    model: Any,
    variables: Mapping[str, Any],
    segmenter: Callable[..., Any],
    floors: Sequence[str],
    predictors: Mapping[str, Predictor],
    max_objects: int | None,
) -> dict[str, Callable[[Video], Any]]:
    """Name -> function of a video that returns something with `step(frame, masks)`."""

    def of_model(video: Video) -> _FromFirstMask:
        slots = max_objects or len(video.ids)
        return _FromFirstMask(segmenter(model, variables, max_objects=slots))

    unknown = [name for name in floors if name not in FLOORS]
    if unknown:
        raise ValueError(f"unknown floors {unknown}, expected some of {sorted(FLOORS)}")
    taken = [name for name in predictors if name in (MODEL, *floors)]
    if taken:
        raise ValueError(f"predictors {taken} have the names of other methods; rename them")
    methods: dict[str, Callable[[Video], Any]] = {MODEL: of_model}
    methods |= {name: (lambda video, floor=FLOORS[name]: floor()) for name in floors}
    methods |= {
        name: (lambda video, predictor=predictor: _Iterated(predictor(video)))
        for name, predictor in predictors.items()
    }
    return methods


def _score_video(
    video: Video,
    protocol: Protocol,
    methods: Mapping[str, Callable[[Video], Any]],
    writers: Sequence[Writer],
) -> dict[str, list[ObjectScores]]:
    """Scores of every method for the objects of one video; the model's maps go to `writers`."""
    steppers = {name: method(video) for name, method in methods.items()}
    scorers = {name: SequenceScorer.of(protocol, video) for name in methods}
    for t in range(len(video)):
        frame = video.frame(t)
        given, scored = np.asarray(video.given[t]), bool(np.any(video.scored[t]))
        truth = video.mask(t) if given.any() or scored else None
        if truth is not None and truth.shape != frame.shape[:2]:
            raise ValueError(
                f"{video.mask_files[t]}: expected a mask of the frame's size {frame.shape[:2]}, "
                f"found {truth.shape}; use masks and frames of one resolution"
            )
        masks = None if truth is None else given_labels(truth, video.ids, given)
        for name, stepper in steppers.items():
            labels = stepper.step(frame, masks)
            where = f"{name}, {video.name}, frame {video.frame_names[t]}"
            _check_labels(labels, frame, where)
            if name == MODEL:
                for writer in writers:
                    writer.write(FrameResult(video.frame_names[t], frame, labels))
            if scored:
                scorers[name].add(t, truth, labels, where)
    return {name: scorer.scores() for name, scorer in scorers.items()}


def _check_labels(labels: np.ndarray, frame: np.ndarray, where: str) -> None:
    if labels.shape != frame.shape[:2] or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"{where}: expected an integer label map of shape {frame.shape[:2]}, found "
            f"{labels.dtype} {labels.shape}"
        )


def _in_order(videos: Iterable[Video]) -> list[Video]:
    """Equal frame sizes and object buckets together, so that each is compiled once in a row."""
    videos = sorted(videos, key=lambda v: (v.original_size, bucket(len(v.ids)), v.name))
    if not any(np.any(video.scored) for video in videos):
        raise ValueError(f"nothing to evaluate: none of {len(videos)} videos has a scored frame")
    names = [video.name for video in videos]
    double = sorted({name for name in names if names.count(name) > 1})
    if double:
        raise ValueError(f"several videos are called {double}; results are kept by name")
    return videos


def _official_order(scores: ObjectScores) -> tuple[str, int]:
    return scores.sequence, scores.object_id


def _writers(
    stack: ExitStack,
    out_dir: epath.Path,
    name: str,
    write_masks: bool,
    suffix: str | None,
    overwrite: bool,
) -> list[Writer]:
    writers: list[Writer] = []
    if write_masks:
        writers.append(MaskWriter(out_dir / "masks" / name, overwrite))
    if suffix:
        path = out_dir / "overlays" / f"{name}{suffix}"
        writers.append(OverlayWriter(path, overwrite=overwrite))
    return [stack.enter_context(writer) for writer in writers]


def _write(out_dir: epath.Path, results: Results, subset: str, overwrite: bool) -> None:
    for name, objects in results.methods.items():
        tables.write_results(
            out_dir if name == MODEL else out_dir / "floors" / name,
            results.protocol,
            objects,
            subset=subset,
            settings={**results.settings, "method": name},
            overwrite=overwrite,
        )
    (out_dir / "tables.txt").write_text(results.report() + "\n")
