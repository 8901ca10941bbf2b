"""Scoring folders of results the official way: `score`, and the data sets of the protocols."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from typing import Any

import cv2
from etils import epath

from vos_jax.data.clip import Video
from vos_jax.data.davis import open_davis
from vos_jax.data.fbms import open_fbms
from vos_jax.data.folders import some
from vos_jax.data.frames import list_images
from vos_jax.data.masks import read_mask
from vos_jax.data.packed import data_folder
from vos_jax.data.segtrack import open_segtrack
from vos_jax.data.youtube_objects import open_youtube_objects
from vos_jax.data.youtube_vos import open_youtube_vos, read_categories
from vos_jax.metrics import tables
from vos_jax.metrics.protocols import Protocol, get_protocol
from vos_jax.metrics.scorer import SequenceScorer
from vos_jax.metrics.scores import ObjectScores
from vos_jax.notes import progress_bar


@dataclass(frozen=True)
class DataSet:
    """What a protocol is applied to.

    open: function of (root, set) -> videos. subset: the default set. frames: which frames count, in
    words. options: flags that `open` takes too. partial: results may lack sequences and frames; no
    official tool or server says otherwise. sparse: results may hold frames that --gt does not.
    categories: its objects have one each.
    """

    open: Callable[..., list[Video]]
    subset: str
    frames: str
    options: tuple[str, ...] = ()
    partial: bool = False
    sparse: bool = False
    categories: bool = False


def _open_youtube_vos(gt: epath.PathLike, subset: str, **options: str) -> list[Video]:
    """The masks of a split; `gt` may also be the split's own folder."""
    root = data_folder(gt)
    if not (root / subset).is_dir() and (root / "Annotations").is_dir():
        root, subset = root.parent, root.name
    return open_youtube_vos(root, subset, frames="masks", **options)


INNER = "all but the first and the last frame"
DATA_SETS: Mapping[str, DataSet] = {  # by the name of the protocol
    "davis2016": DataSet(partial(open_davis, year=2016), "val", INNER, ("resolution",)),
    "davis2017": DataSet(partial(open_davis, year=2017), "val", INNER, ("resolution",)),
    "davis2017-unsupervised": DataSet(
        partial(open_davis, year=2017, task="unsupervised"), "val", "all", ("resolution",)
    ),
    "youtube-vos": DataSet(
        _open_youtube_vos,
        "valid",
        "annotated frames of an object after its first one",
        ("meta",),
        partial=True,
        sparse=True,
        categories=True,
    ),
    "fbms": DataSet(open_fbms, "test", "annotated frames, with first and last", partial=True),
    "youtube-objects": DataSet(
        open_youtube_objects,
        "all",
        "annotated frames after the first one",
        partial=True,
        categories=True,
    ),
    "segtrack": DataSet(open_segtrack, "all", "all but the first frame", partial=True),
}


@dataclass(frozen=True)
class Scores:
    """What scoring a folder found.

    Attributes:
        protocol: how it was scored.
        objects: the numbers of every object, in the order of the data set.
        settings: the set, what was counted and how.
        name: of the folder of results.
    """

    protocol: Protocol
    objects: list[ObjectScores]
    settings: dict[str, Any]
    name: str

    @property
    def metrics(self) -> dict[str, float]:
        """The protocol's global numbers by name, such as "J&F-Mean"."""
        return self.protocol.metrics(self.objects)

    def write(self, out: epath.PathLike, overwrite: bool = False) -> None:
        """Writes the official CSVs and scores.json; FileExistsError where they are there."""
        tables.write_results(
            out,
            self.protocol,
            self.objects,
            subset=self.settings["set"],
            settings=self.settings,
            overwrite=overwrite,
        )

    def report(self, by: str | None = None) -> str:
        """The tables as text; by: a further one of groups, one of tables.GROUPINGS."""
        parts = [tables.object_table(self.protocol, self.objects)]
        if by:
            parts.append(tables.grouped_table(self.protocol, self.objects, by))
        parts.append(tables.method_table(self.protocol, {self.name: self.objects}))
        missing = self.settings["sequences_missing"]
        parts.append(
            f"{tables.statement(self.protocol, self.settings)}\n"
            f"Frames that count: {self.settings['frames_rule']}."
            + (f" {missing} sequences without results were left out." if missing else "")
        )
        return "\n\n".join(parts)


def score(
    protocol: str,
    gt: epath.PathLike,
    pred: epath.PathLike,
    *,
    subset: str | None = None,
    workers: int = 1,
    average: str = "",
    temporal: str = "none",
    seen: str | None = None,
    allow_missing: bool = False,
    **options: str,
) -> Scores:
    """Score a folder of results against a data set, as `python -m vos_jax.score` does.

    Args:
        protocol: such as "davis2017", a name in vos_jax.metrics.protocols.PROTOCOLS.
        gt: root of the data set in its official layout.
        pred: folder of sequence folders with one PNG of object ids per frame.
        subset: list or part of the data set; None: the protocol's own, such as "val".
        workers: processes.
        average, temporal: see `get_protocol`.
        seen: youtube-vos: file with the names of the seen categories.
        allow_missing: a sequence without a folder is left out, a missing frame counts as empty.
        options: further ones of the data set: resolution (DAVIS), meta (youtube-vos).

    Raises:
        FileNotFoundError: the data set or results are not there.
        ValueError: what does not fit: an unknown protocol or option, a missing or extra frame, a
            wrong size, an unknown id; or no frame can be scored.
    """
    rules = get_protocol(
        protocol,
        average=average,
        temporal=temporal,
        seen=read_categories(seen) if seen else None,
    )
    data_set = DATA_SETS[protocol]
    unknown = sorted(set(options) - set(data_set.options))
    if unknown:
        raise ValueError(f"options {unknown} do not go with protocol {protocol}")
    if "meta" in options:  # readers look beside the data set
        meta = epath.Path(options["meta"])
        options["meta"] = os.fspath(meta if meta.is_absolute() else meta.absolute())
    subset = subset or data_set.subset
    videos = data_set.open(gt, subset, **options)
    if rules.seen is not None:
        rules.check_seen({name for video in videos for name in video.categories or ()})
    objects, counted = score_videos(
        rules,
        videos,
        pred,
        workers=workers,
        allow_missing=allow_missing,
        sparse=data_set.sparse,
    )
    if not objects:
        raise ValueError(
            f"{gt}: no frame of set {subset!r} can be scored, because its annotation is withheld;"
            " results go to the data set's server, packed by vos_jax.package"
        )
    settings = {"set": subset, "frames_rule": data_set.frames, **counted, **options}
    return Scores(rules, objects, settings, epath.Path(pred).name)


def score_videos(
    protocol: Protocol,
    videos: Sequence[Video],
    pred: epath.PathLike,
    *,
    workers: int = 1,
    allow_missing: bool = False,
    sparse: bool = False,
) -> tuple[list[ObjectScores], dict[str, int]]:
    """Score the results in `pred` against annotated videos.

    Args:
        videos: of a folder reader; only their masks are read.
        pred: holds <video name>/<frame name>.png for every scored frame.
        workers: processes; sequences are shared among them.
        allow_missing: a sequence without a folder is left out, a missing frame counts as empty.
        sparse: frames that the video does not have are ignored instead of refused.

    Returns:
        The objects with a scored frame in the order of `videos`, and what was counted.

    Raises:
        FileNotFoundError, ValueError: naming the first things that do not fit.
    """
    pred = epath.Path(pred)
    tasks = _tasks(protocol, videos, pred, allow_missing, sparse)
    results = []
    with progress_bar(total=len(tasks), desc="score", unit="sequence") as progress:
        for result in _map(_score_sequence, tasks, workers):
            results.append(result)
            progress.update()
    scorers = [SequenceScorer.of(protocol, task.video) for task in tasks]
    counted = tables.counts(scorers) | {"sequences_missing": len(videos) - len(tasks)}
    return [scores for objects in results for scores in objects], counted


@dataclass(frozen=True)
class _Task:
    """One sequence to score; files: frame name -> its result."""

    protocol: Protocol
    video: Video
    files: Mapping[str, str]


def _tasks(
    protocol: Protocol, videos: Sequence[Video], pred: epath.Path, allow_missing: bool, sparse: bool
) -> list[_Task]:
    """The sequences with results; all folders are looked through before anything is scored."""
    if not pred.is_dir():
        raise FileNotFoundError(f"{pred}: no such folder of results (--pred)")
    found = [video for video in videos if (pred / video.name).is_dir()]
    lacking = [video.name for video in videos if not (pred / video.name).is_dir()]
    if not found or (lacking and not allow_missing):
        there = sorted(folder.name for folder in pred.iterdir() if folder.is_dir())
        raise FileNotFoundError(
            f"{pred}: expected a folder for each of {len(videos)} sequences, {len(lacking)} are"
            f" missing: {some(lacking)}; folders that are there: {some(there)}. --pred is the"
            " folder that holds the sequence folders; --set chooses another list of sequences"
        )
    return [
        _Task(protocol, video, _results(protocol, video, pred / video.name, allow_missing, sparse))
        for video in found
    ]


def _results(
    protocol: Protocol, video: Video, folder: epath.Path, allow_missing: bool, sparse: bool
) -> dict[str, str]:
    """Frame name -> result file of the scored frames; frames the video lacks are refused."""
    files = {file.stem: file for file in list_images(folder)}
    if not files:
        raise FileNotFoundError(
            f"{folder}: the folder holds no result; expected one PNG per frame, such as"
            f" {video.frame_names[0]}.png"
        )
    wrong = [file.name for file in files.values() if file.suffix.lower() != ".png"]
    if wrong:
        raise ValueError(f"{folder}: expected PNG files, found {some(wrong)}; save masks as PNG")
    scored = SequenceScorer.of(protocol, video).scored.any(axis=1)
    expected = [name for name, counts in zip(video.frame_names, scored, strict=True) if counts]
    missing = [name for name in expected if name not in files]
    extra = sorted(set(files) - set(video.frame_names))
    if (missing and not allow_missing) or (extra and not sparse):
        raise ValueError(
            f"{folder}: expected results for frames {some(expected)} of sequence {video.name};"
            f" missing: {some(missing)}; extra: {some(extra)}. Results carry the names of the"
            f" frames, from {video.frame_names[0]}.png to {video.frame_names[-1]}.png"
        )
    return {name: str(files[name]) for name in expected if name in files}


def _score_sequence(task: _Task) -> list[ObjectScores]:
    cv2.setNumThreads(1)  # processes share the cores
    video, scorer = task.video, SequenceScorer.of(task.protocol, task.video)
    merged = True if task.protocol.merged else None
    for t, counts in enumerate(scorer.scored.any(axis=1)):
        if not counts:
            continue
        truth = video.mask(t)
        file = task.files.get(video.frame_names[t])
        labels = truth * 0 if file is None else read_mask(file, binary=merged, indexed=True)
        scorer.add(t, truth, labels, file or f"{video.name}, frame {video.frame_names[t]}")
    return scorer.scores()


def _map(function: Callable, tasks: Sequence[Any], workers: int) -> Iterator[Any]:
    """Results in order; processes start afresh, because forking under threads can hang."""
    if workers <= 1:
        yield from map(function, tasks)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield from pool.map(function, tasks)
