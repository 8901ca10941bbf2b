"""Run a model and the floors over annotated videos and score them the official way.

A method is a function of a video that returns something with `step(frame, labels)`, a fresh
`VideoSegmenter` for instance: frame uint8 [H, W, 3], labels the part of the annotation that is
handed over with it, uint8 [H, W] or None; it returns the integer label map [H, W] of the frame.
One that returns an `Unguided` is shown no annotation.

Videos are read frame by frame, each frame once: memory does not grow with their length. All methods
see the same frames and given labels and are scored in the same frames, under the same protocol and
by the same functions as folders of results in `vos_jax.score`.

Several processes share the videos, and the devices of a process take one each, where the videos
have one size and get their masks at the same frames. Every process writes the label maps of its own
videos, so `out_dir` must be a folder that all of them see; the first one writes the tables.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import jax
from etils import epath
from ml_collections import ConfigDict

from vos_jax.data.clip import Video
from vos_jax.data.sources import evaluation_videos, open_sources
from vos_jax.data.youtube_vos import read_categories
from vos_jax.evaluating.kept import KeptScores, from_plain, to_plain
from vos_jax.evaluating.methods import (
    FLOORS,
    Method,
    Together,
    goes_without_masks,
    segmenters,
)
from vos_jax.evaluating.plan import batches, in_order, on_every_process, require_metric, share
from vos_jax.evaluating.walk import walk
from vos_jax.files import write_whole
from vos_jax.inference.overlay import OverlayWriter
from vos_jax.inference.setup import Inference, build_inference
from vos_jax.inference.writers import MaskWriter, Writer
from vos_jax.metrics import tables
from vos_jax.metrics.protocols import PROTOCOLS, Protocol, get_protocol
from vos_jax.metrics.scorer import SequenceScorer
from vos_jax.metrics.scores import ObjectScores
from vos_jax.notes import note, progress_bar
from vos_jax.reporting.page import write_report

MODEL = "model"
SET = "val"  # in the names of the result files
FLOOR_SCORES = "floor_scores"  # folder beside the results


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
        statement = tables.statement(self.protocol, self.settings)
        if "subset" in self.settings:
            statement += f" A subset: {self.settings['subset']}."
        return "\n\n".join(
            [
                tables.sequence_table(self.protocol, self.methods),
                tables.method_table(self.protocol, self.methods),
                statement,
            ]
        )


def evaluate(
    methods: Mapping[str, Method | Together],
    videos: Iterable[Video],
    *,
    protocol: Protocol = PROTOCOLS["davis2017"],
    out_dir: epath.PathLike | None = None,
    write_masks: bool = True,
    overlay: bool = True,
    overwrite: bool = False,
    kept: KeptScores | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Results:
    """Score methods beside each other and write the results; of several processes, on all of them.

    Args:
        methods: name -> method (see above). Until the first labels of a video are given, all is
            background and no method is asked, unless it is unguided.
        videos: sorted so that equal frame sizes and object counts follow each other.
        protocol: of vos_jax.metrics.protocols.
        out_dir: receives scores.json, the CSVs, tables.txt, masks/<video>/<stem>.png and
            overlays/<video>.gif of the first method, floors/<method>/ with the scores of every
            other one, and report.html. None writes nothing.
        write_masks, overlay: what to write of the first method's label maps.
        overwrite: allow results that are already in `out_dir` to be replaced.
        kept: scores of methods other than the first that need not be computed again; those that
            are computed are added.
        settings: what else the results say of how they came about.

    Raises:
        ValueError: no video or no scored object, two videos of one name, masks that do not have
            their frame's size, label maps of a wrong size or kind; any error of another process.
        FileExistsError: results exist and `overwrite` is not set.
    """
    videos = list(videos)
    out_dir = None if out_dir is None else epath.Path(out_dir)
    width = max((m.width for m in methods.values() if isinstance(m, Together)), default=1)

    def open_writers(stack: ExitStack, name: str) -> list[Writer]:
        if out_dir is None:
            return []
        return _writers(stack, out_dir, name, write_masks, overlay, overwrite)

    def score() -> dict[str, list]:
        if out_dir is not None:
            tables.refuse_existing(out_dir, SET, overwrite)
        plan = batches(in_order(videos), width)
        own = share(plan, jax.process_index(), jax.process_count())
        known = {} if kept is None else _find([video for batch in own for video in batch], kept)
        found: dict[str, list[ObjectScores]] = {name: [] for name in methods}
        for batch in _progress(own):
            for name, objects in _score_batch(batch, methods, protocol, known, open_writers):
                found[name] += objects
        return {name: to_plain(objects) for name, objects in found.items()}

    parts = on_every_process(score)
    scores = {name: [x for part in parts for x in from_plain(part[name])] for name in methods}
    methods = {name: sorted(objects, key=_official_order) for name, objects in scores.items()}
    counts = tables.counts([SequenceScorer.of(protocol, video) for video in videos])
    results = Results(protocol, methods, {"set": SET, **counts, **(settings or {})})

    def write() -> None:
        if jax.process_index() == 0:
            if kept is not None:
                kept.save(videos, methods)
            if out_dir is not None:
                _write(out_dir, results, overwrite)

    on_every_process(write)
    return results


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
        self._beside = _beside(config)
        videos = evaluation_videos(open_sources(config.data, "eval"))
        self._videos, self._settings = _subset(videos, config.eval.get("videos", 0))
        named = {name for video in self._videos for name in video.categories or ()}
        self.protocol.check_seen(named)
        self._floors = {name: FLOORS[name](config) for name in config.eval.floors}

    def check_metric(self) -> None:
        """Raises ValueError unless the protocol reports config.eval.metric."""
        require_metric(self._config.eval.metric, self.protocol.name, self.protocol.metric_names)

    def scores(
        self, variables: Mapping[str, Any], out_dir: epath.PathLike, **options: bool
    ) -> dict[str, float]:
        """The model's numbers of a `run` with these options."""
        return self.run(variables, out_dir, **options).metrics[MODEL]

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
        tables are printed once all is written. Scores of floors are kept beside `out_dir`, in
        floor_scores, and found there by the next evaluation.
        """
        unguided = goes_without_masks(self._inference, self.protocol)
        beside = {
            name: segmenters(inference, variables, unguided)
            for name, inference in self._beside.items()
        }
        floors = {name: floor.method for name, floor in self._floors.items()}
        identities = {name: floor.identity for name, floor in self._floors.items()}
        folder = epath.Path(out_dir).parent / FLOOR_SCORES
        results = evaluate(
            {MODEL: segmenters(self._inference, variables, unguided), **beside, **floors},
            self._videos,
            protocol=self.protocol,
            out_dir=out_dir,
            write_masks=write_masks,
            overlay=write_masks and self._config.eval.overlay,
            overwrite=overwrite,
            kept=KeptScores(folder, identities, self.protocol),
            settings=self._settings,
        )
        if jax.process_index() == 0:
            print(results.report())
        return results


def _beside(config: ConfigDict) -> dict[str, Inference]:
    """The same network run otherwise, by name: what config.eval.beside says."""
    found = {}
    for name, fields in config.eval.get("beside", {}).items():
        if name in (MODEL, *FLOORS):
            raise ValueError(
                f"config.eval.beside.{name}: expected another name than those of the model and its"
                f" floors, {', '.join((MODEL, *FLOORS))}"
            )
        inference = {**config.inference, **fields}
        found[name] = build_inference({**config, "inference": inference})
    return found


def _subset(videos: Sequence[Video], count: int) -> tuple[Sequence[Video], dict[str, str]]:
    """The first `count` videos by name (0: all), and what the settings say of that."""
    if not count:
        return videos, {}
    if count > len(videos):
        raise ValueError(
            f"config.eval.videos: expected at most {len(videos)}, as many as config.data.eval has"
            f" (0: all), found {count}"
        )
    chosen = sorted(videos, key=lambda video: video.name)[:count]
    return chosen, {"subset": f"the first {count} of {len(videos)} videos by name"}


def _protocol(section: ConfigDict) -> Protocol:
    """The protocol that config.eval names."""
    seen = read_categories(section.seen) if section.seen else None
    try:
        temporal = section.get("temporal", "none")
        return get_protocol(section.protocol, temporal=temporal, seen=seen)
    except ValueError as error:
        raise ValueError(f"config.eval: {error}") from error


def _find(videos: Sequence[Video], kept: KeptScores) -> dict[str, dict[str, list[ObjectScores]]]:
    """Video -> method -> scores that are kept; the first process says which of its videos'."""
    known = {video.name: kept.find(video) for video in videos}
    names = sorted({name for found in known.values() for name in found})
    if names and jax.process_index() == 0:
        count = sum(map(bool, known.values()))
        note(
            f"floors {', '.join(names)}: scores of {count} of {len(videos)} videos are those in"
            f" {kept.folder}"
        )
    return known


def _score_batch(
    batch: Sequence[Video],
    methods: Mapping[str, Method | Together],
    protocol: Protocol,
    known: Mapping[str, Mapping[str, list[ObjectScores]]],
    open_writers: Callable[[ExitStack, str], Sequence[Writer]],
) -> Iterator[tuple[str, list[ObjectScores]]]:
    """Method and scores of the videos of a batch; what is known is not computed."""
    has = {video.name: known.get(video.name, {}) for video in batch}
    together, apart = {}, {video.name: {} for video in batch}
    for name, method in methods.items():
        if isinstance(method, Together):
            if any(name not in found for found in has.values()):
                together[name] = method
        else:
            for video, found in has.items():
                if name not in found:
                    apart[video][name] = method
    computed = walk(batch, protocol, together, apart, next(iter(methods)), open_writers)
    yield from computed.items()
    for found in has.values():
        yield from ((name, objects) for name, objects in found.items() if name not in together)


def _progress(batches: Sequence[Sequence[Video]]) -> Iterator[Sequence[Video]]:
    """The batches, with a bar on the first process."""
    total, shown = sum(map(len, batches)), jax.process_index() == 0
    with progress_bar(total=total, desc="evaluate", unit="clip", shown=shown) as progress:
        for batch in batches:
            progress.set_postfix_str(", ".join(video.name for video in batch))
            yield batch
            progress.update(len(batch))


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
    write_report(out_dir, overwrite=True)
