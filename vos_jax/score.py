"""Official metrics on folders of results.

    python -m vos_jax.score --protocol P --gt PATH --pred PATH --out DIR [--set val] [--workers N]

--help lists the protocols. --gt is the root of the data set in its official layout, --pred a folder
of sequence folders with one PNG of object ids per frame, as `segment` and `main` write them. DIR
gets the official CSVs and scores.json. What does not fit - a missing or extra frame, a wrong size,
an unknown id - is refused by name: a score is of the whole set or it is none.
"""

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from typing import Any

import cv2
from absl import flags
from etils import epath
from tqdm import tqdm

from vos_jax.command_line import flag, new_flags, parse_flags, run_command
from vos_jax.data.clip import Video
from vos_jax.data.davis import RESOLUTIONS, open_davis
from vos_jax.data.fbms import open_fbms
from vos_jax.data.folders import some
from vos_jax.data.frames import list_images
from vos_jax.data.masks import read_mask
from vos_jax.data.segtrack import open_segtrack
from vos_jax.data.youtube_objects import open_youtube_objects
from vos_jax.data.youtube_vos import open_youtube_vos, read_categories
from vos_jax.metrics import tables
from vos_jax.metrics.protocols import PROTOCOLS, TEMPORAL, Protocol, get_protocol
from vos_jax.metrics.scorer import SequenceScorer
from vos_jax.metrics.scores import ObjectScores


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
    root = epath.Path(gt)
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


def score(
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

    Returns: the objects with a scored frame in the order of `videos`, and what was counted.
    Raises FileNotFoundError or ValueError naming the first things that do not fit.
    """
    pred = epath.Path(pred)
    tasks = _tasks(protocol, videos, pred, allow_missing, sparse)
    results = []
    with tqdm(total=len(tasks), desc="score", unit="sequence", disable=None) as progress:
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


def parse(argv: Sequence[str]) -> flags.FlagValues:
    """The command line as flag values; raises flags.Error where it is wrong."""
    values = new_flags()
    flag(values, "protocol", None, "what is counted and how", choices=PROTOCOLS)
    flag(values, "gt", None, "root of the data set in its official layout")
    flag(values, "pred", None, "folder of sequence folders with results")
    flag(values, "out", None, "folder for the CSVs and scores.json")
    flag(values, "set", None, "list or part of the data set (default: val, test...)")
    flag(values, "workers", 1, "processes", at_least=1)
    flag(values, "by", None, "a further table of groups", choices=tables.GROUPINGS)
    flag(values, "resolution", None, "DAVIS: folder of masks", choices=RESOLUTIONS)
    flag(values, "meta", None, "youtube-vos: another meta.json")
    flag(values, "seen", None, "youtube-vos: file with the seen categories")
    flag(values, "temporal", "none", "davis2016: T, in which sequences", choices=TEMPORAL)
    flag(values, "average", "", "fbms: frames; youtube-objects, segtrack: sequences")
    flag(values, "allow_missing", False, "leave out what has no result")
    flag(values, "overwrite", False, "replace results that exist")
    parse_flags(values, argv, required=("protocol", "gt", "pred", "out"))
    if values.help:
        return values
    data_set = DATA_SETS[values.protocol]
    for name in ("resolution", "meta"):
        if values[name].value and name not in data_set.options:
            raise flags.Error(f"--{name} does not go with --protocol {values.protocol}")
    if values.by == "category" and not data_set.categories:
        named = [name for name, other in DATA_SETS.items() if other.categories]
        raise flags.Error(
            f"--by=category: {values.protocol} names no categories; {' and '.join(named)} do"
        )
    if values.allow_missing and not data_set.partial:
        raise flags.Error(
            f"--allow-missing: {values.protocol} is defined over whole sets; name the sequences you"
            " have in a list of your own in ImageSets and give it with --set"
        )
    return values


def run(args: flags.FlagValues) -> str:
    """Do what the command line says; returns the tables and what they count."""
    data_set = DATA_SETS[args.protocol]
    subset = args.set or data_set.subset
    seen = read_categories(args.seen) if args.seen else None
    protocol = get_protocol(args.protocol, average=args.average, temporal=args.temporal, seen=seen)
    tables.refuse_existing(args.out, subset, args.overwrite)
    options = {name: args[name].value for name in data_set.options if args[name].value}
    if args.meta:  # readers look beside the data set
        options["meta"] = os.path.abspath(args.meta)
    videos = data_set.open(args.gt, subset, **options)
    objects, counted = score(
        protocol,
        videos,
        args.pred,
        workers=args.workers,
        allow_missing=args.allow_missing,
        sparse=data_set.sparse,
    )
    if not objects:
        raise ValueError(
            f"{args.gt}: no frame of set {subset!r} can be scored, because its annotation is"
            " withheld; results go to the data set's server, packed by vos_jax.package"
        )
    settings = {"set": subset, "frames_rule": data_set.frames, **counted, **options}
    tables.write_results(
        args.out, protocol, objects, subset=subset, settings=settings, overwrite=args.overwrite
    )
    report = _report(epath.Path(args.pred).name, protocol, objects, settings, args.by)
    return f"{report}\nresults in {args.out}"


def _report(
    name: str,
    protocol: Protocol,
    objects: Sequence[ObjectScores],
    settings: Mapping[str, Any],
    by: str | None,
) -> str:
    parts = [tables.object_table(protocol, objects)]
    if by:
        parts.append(tables.grouped_table(protocol, objects, by))
    parts.append(tables.method_table(protocol, {name: objects}))
    missing = settings["sequences_missing"]
    parts.append(
        f"{tables.statement(protocol, settings)}\nFrames that count: {settings['frames_rule']}."
        + (f" {missing} sequences without results were left out." if missing else "")
    )
    return "\n\n".join(parts)


def main(argv: Sequence[str]) -> None:
    """The command; wrong input ends with a message that says what to do."""
    run_command(argv, __doc__, parse, run)


if __name__ == "__main__":
    main(sys.argv)
