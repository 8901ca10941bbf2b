"""Run a model and the floors over annotated videos and score them the official way.

A method is a function of a video that returns something with `step(frame, labels)`, a fresh
`VideoSegmenter` for instance: frame uint8 [H, W, 3], labels the part of the annotation that is
handed over with it, uint8 [H, W] or None; it returns the integer label map [H, W] of the frame.
One that returns an `Unguided` is shown no annotation.

Videos are read frame by frame, each frame once: memory does not grow with their length. All methods
see the same frames and given labels and are scored in the same frames, under the same protocol and
by the same functions as folders of results in `vos_jax.score`.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from etils import epath
from ml_collections import ConfigDict
from tqdm import tqdm

from vos_jax.data.clip import Video
from vos_jax.data.sources import evaluation_videos, open_sources
from vos_jax.data.youtube_vos import read_categories
from vos_jax.files import write_whole
from vos_jax.inference.overlay import OverlayWriter
from vos_jax.inference.setup import Inference, build_inference
from vos_jax.inference.streaming import VideoSegmenter, bucket
from vos_jax.inference.writers import FrameResult, MaskWriter, Writer
from vos_jax.metrics import tables
from vos_jax.metrics.floors import Constant, CopyMask, NearestColour, given_labels
from vos_jax.metrics.protocols import PROTOCOLS, Protocol, get_protocol
from vos_jax.metrics.scorer import SequenceScorer
from vos_jax.metrics.scores import ObjectScores
from vos_jax.systems.propagation import Propagation
from vos_jax.train.initial import initial_variables

MODEL = "model"
SET = "val"  # in the names of the result files

Method = Callable[[Video], Any]


@dataclass(frozen=True)
class Unguided:
    """A method at work that segments every frame of a video by itself.

    stepper: has `step(frame)`, which returns the label map.
    """

    stepper: Any


@dataclass(frozen=True)
class Results:
    """Scores of every method on the same frames, in the order of the methods.

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
    methods: Mapping[str, Method],
    videos: Iterable[Video],
    *,
    protocol: Protocol = PROTOCOLS["davis2017"],
    out_dir: epath.PathLike | None = None,
    write_masks: bool = True,
    overlay: bool = True,
    overwrite: bool = False,
) -> Results:
    """Score methods beside each other and write the results.

    Args:
        methods: name -> method (see above). Until the first labels of a video are given, all is
            background and no method is asked, unless it is unguided.
        videos: sorted so that equal frame sizes and object counts follow each other.
        protocol: of vos_jax.metrics.protocols.
        out_dir: receives scores.json, the CSVs, tables.txt, masks/<video>/<stem>.png and
            overlays/<video>.gif of the first method, and floors/<method>/ with the scores of every
            other one. None writes nothing.
        write_masks, overlay: what to write of the first method's label maps.
        overwrite: allow results that are already in `out_dir` to be replaced.

    Raises:
        ValueError: no video or no scored object, two videos of one name, masks that do not have
            their frame's size, label maps of a wrong size or kind.
        FileExistsError: results exist and `overwrite` is not set.
    """
    videos = _in_order(videos)
    out_dir = None if out_dir is None else epath.Path(out_dir)
    if out_dir is not None:
        tables.refuse_existing(out_dir, SET, overwrite)

    scores: dict[str, list[ObjectScores]] = {name: [] for name in methods}
    with tqdm(videos, desc="evaluate", unit="clip", disable=None) as progress:
        for video in progress:
            progress.set_postfix_str(video.name)
            with ExitStack() as stack:
                writers = []
                if out_dir is not None:
                    writers = _writers(stack, out_dir, video.name, write_masks, overlay, overwrite)
                for name, objects in _score_video(video, protocol, methods, writers).items():
                    scores[name] += objects

    counts = tables.counts([SequenceScorer.of(protocol, video) for video in videos])
    methods = {name: sorted(objects, key=_official_order) for name, objects in scores.items()}
    results = Results(protocol, methods, {"set": SET, **counts})
    if out_dir is not None:
        _write(out_dir, results, overwrite)
    return results


def segmenters(
    inference: Inference, variables: Mapping[str, Any], unguided: bool = False
) -> Method:
    """The method that segments every video with a system.

    The variables may be on the host; they go to the device for the time of a video. unguided: no
    mask is given to it, and it sees the reference frames that the system asks for.
    """

    def begin(video: Video) -> VideoSegmenter | Unguided:
        if not unguided:
            return inference.segmenter(jax.device_put(variables), [int(i) for i in video.ids])
        segmenter = inference.segmenter(jax.device_put(variables))
        references = inference.reference_frames(len(video))
        if references:
            segmenter.observe([video.frame(t) for t in references])
        return Unguided(segmenter)

    return begin


def goes_without_masks(inference: Inference, protocol: Protocol) -> bool:
    """Whether a system is shown no masks under a protocol.

    One that may have them goes without where ids are matched and not given.
    """
    guidance = inference.model.traits.guidance
    return guidance == "none" or guidance == "either" and protocol.proposals > 0


class Evaluation:
    """What a config says about evaluation, checked at once: it may be run hours later.

    It looks at the sections data, eval, inference, model and init.

    Raises:
        ValueError: an unknown floor, protocol or list of categories, a floor that lacks what it
            needs, a wrong field of inference, or what `open_sources` and `evaluation_videos` raise.
        FileNotFoundError: a data set, list or checkpoint that is not there.
    """

    def __init__(self, config: ConfigDict):
        unknown = sorted(set(config.eval.floors) - set(FLOORS))
        if unknown:
            raise ValueError(
                f"config.eval.floors: unknown {unknown}, expected some of {list(FLOORS)}"
            )
        self.protocol = _protocol(config.eval)
        self._config = config
        self._inference = build_inference(config)
        self._videos = evaluation_videos(open_sources(config.data, "eval"))
        named = {name for video in self._videos for name in video.categories or ()}
        self.protocol.check_seen(named)
        self._floors = {name: FLOORS[name](config) for name in config.eval.floors}

    def check_metric(self) -> None:
        """Raises ValueError unless the protocol reports config.eval.metric."""
        metric, known = self._config.eval.metric, self.protocol.metric_names
        if metric not in known:
            raise ValueError(
                f"config.eval.metric: protocol {self.protocol.name} reports {', '.join(known)},"
                f" found {metric!r}"
            )

    def run(
        self,
        variables: Mapping[str, Any],
        out_dir: epath.PathLike,
        *,
        write_masks: bool = True,
        overwrite: bool = False,
    ) -> Results:
        """Score the model with these variables beside the floors; see `evaluate`.

        write_masks: its label maps and, where the config says so, overlays are written too. The
        tables are printed once all is written.
        """
        unguided = goes_without_masks(self._inference, self.protocol)
        results = evaluate(
            {MODEL: segmenters(self._inference, variables, unguided), **self._floors},
            self._videos,
            protocol=self.protocol,
            out_dir=out_dir,
            write_masks=write_masks,
            overlay=write_masks and self._config.eval.overlay,
            overwrite=overwrite,
        )
        print(results.report())
        return results


def _protocol(section: ConfigDict) -> Protocol:
    """The protocol that config.eval names."""
    seen = read_categories(section.seen) if section.seen else None
    try:
        return get_protocol(section.protocol, seen=seen)
    except ValueError as error:
        raise ValueError(f"config.eval: {error}") from error


def _propagation(config: ConfigDict) -> Method:
    """The floor that propagates labels with the untrained features of config.init.backbone."""
    if not config.init.backbone:
        raise ValueError(
            "config.eval.floors has 'propagation', which needs config.init.backbone: a folder "
            "written by vos_jax.convert"
        )
    shared = ("backbone", "width", "window", "short_side")  # not every system has a window
    fields = {name: config.model[name] for name in shared if name in config.model}
    model = Propagation(output_stride=8, **fields)
    variables = initial_variables(model, {**config.init, "model": ""}, config.seed)
    return segmenters(Inference(model), variables)


# name -> function of a config that returns the method; the last two are for systems without masks
FLOORS: Mapping[str, Callable[[ConfigDict], Method]] = {
    "copy": lambda config: lambda video: CopyMask(),
    "rgb": lambda config: lambda video: NearestColour(),
    "propagation": _propagation,
    "background": lambda config: lambda video: Unguided(Constant(0)),
    "whole_frame": lambda config: lambda video: Unguided(Constant(1)),
}


def _score_video(
    video: Video, protocol: Protocol, methods: Mapping[str, Method], writers: Sequence[Writer]
) -> dict[str, list[ObjectScores]]:
    """Scores of every method for the objects of one video; the first one's maps go to `writers`."""
    steppers = {name: method(video) for name, method in methods.items()}
    scorers = {name: SequenceScorer.of(protocol, video) for name in methods}
    first, started = next(iter(methods)), False
    for t in range(len(video)):
        frame = video.frame(t)
        given, scored = np.asarray(video.given[t]), bool(np.any(video.scored[t]))
        truth = video.mask(t) if given.any() or scored else None
        if truth is not None and truth.shape != frame.shape[:2]:
            raise ValueError(
                f"{video.mask_files[t]}: expected a mask of the frame's size {frame.shape[:2]}, "
                f"found {truth.shape}; use masks and frames of one resolution"
            )
        handed = None if truth is None else given_labels(truth, video.ids, given)
        started = started or handed is not None
        for name, stepper in steppers.items():
            labels = np.zeros(frame.shape[:2], np.uint8)
            if isinstance(stepper, Unguided):
                labels = stepper.stepper.step(frame)
            elif started:
                labels = stepper.step(frame, handed)
            where = f"{name}, {video.name}, frame {video.frame_names[t]}"
            _check_labels(labels, frame, where)
            if name == first:
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
    overlay: bool,
    overwrite: bool,
) -> list[Writer]:
    writers: list[Writer] = []
    if write_masks:
        writers.append(MaskWriter(out_dir / "masks" / name, overwrite))
    if overlay:
        writers.append(OverlayWriter(out_dir / "overlays" / f"{name}.gif", overwrite))
    return [stack.enter_context(writer) for writer in writers]


def _write(out_dir: epath.Path, results: Results, overwrite: bool) -> None:
    first = next(iter(results.methods))
    for name, objects in results.methods.items():
        tables.write_results(
            out_dir if name == first else out_dir / "floors" / name,
            results.protocol,
            objects,
            subset=SET,
            settings={**results.settings, "method": name},
            overwrite=overwrite,
        )
    write_whole(out_dir / "tables.txt", f"{results.report()}\n".encode())
