"""Instances in videos against annotated ones: YouTube-VIS's average precision of tracks.

A video is looked at once, frame by frame, and several linkers may follow what the network finds in
it: the model's own rule, whose numbers are those of a run, and the ones that config.eval.linkers
names, to compare. `results.json` and `gt.json` are files in YouTube-VIS's form, which
`vos_jax.score --protocol youtube-vis` scores to the same numbers. Several processes share the
videos, and all get the scores.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np
from etils import epath
from ml_collections import ConfigDict

from vos_jax.data import synthetic_vis
from vos_jax.data.instances import InstanceVideo, require_truth
from vos_jax.data.sources import instance_videos, open_sources
from vos_jax.data.track_files import Track, annotations_json
from vos_jax.evaluating.plan import on_every_process, require_metric
from vos_jax.evaluating.track_floors import floor_table, true_tracks
from vos_jax.files import write_whole
from vos_jax.inference.instances import Detector, linked_by
from vos_jax.inference.linking.base import Linked
from vos_jax.inference.overlay import OverlayWriter, marks_of
from vos_jax.inference.tracks import Tracks
from vos_jax.inference.vis_setup import VISInference, build_vis_inference, check_linkers
from vos_jax.inference.writers import FrameResult
from vos_jax.metrics import track_tables
from vos_jax.metrics.text_table import format_table
from vos_jax.metrics.youtube_vis import TrackScorer, TrackScores
from vos_jax.notes import progress_bar
from vos_jax.reporting.page import write_report

FPS = 6  # of overlays: data sets annotate every fifth frame
METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")


@dataclass(frozen=True)
class TrackResults:
    """Scores of every linker on the same detections; the first is that of the run.

    groups: of some videos alone, by name and linker. floors: their table.
    """

    methods: Mapping[str, TrackScores]
    groups: Mapping[str, Mapping[str, TrackScores]]
    floors: str

    def report(self) -> str:
        """The tables as aligned text."""
        first = next(iter(self.methods.values()))
        parts = [track_tables.category_table(first), track_tables.method_table(self.methods)]
        if self.groups:
            names = list(self.groups)
            rows = [
                (linker, *(f"{self.groups[name][linker].metrics['AP']:.3f}" for name in names))
                for linker in self.methods
            ]
            parts.append(format_table([("AP", *names), *rows]))
        return "\n\n".join([*parts, self.floors, track_tables.statement(first)])


class TrackEvaluation:
    """What a config says about evaluation on videos with instances, checked at once.

    It looks at the sections data, eval, inference and model.

    Raises:
        ValueError: sources without instances, with withheld annotations or of several sets of
            categories, another number of classes than the model's, an unknown linker, or what
            `open_sources` and `build_vis_inference` raise.
    """

    def __init__(self, config: ConfigDict):
        self._config = config
        self._inference = build_vis_inference(config)
        others = [name for name in config.eval.linkers if name != self._inference.linker]
        check_linkers(self._inference, others, "config.eval.linkers")
        self._linkers = [self._inference.linker, *others]
        videos = instance_videos(open_sources(config.data, "eval"))
        self._videos = videos[: config.eval.videos or None]
        require_truth(self._videos)
        _check_categories(self._videos, self._inference.model.classes)

    def check_metric(self) -> None:
        """Raises ValueError unless config.eval.metric is one of METRICS."""
        require_metric(self._config.eval.metric, track_tables.PROTOCOL, METRICS)

    def scores(
        self, variables: Mapping[str, Any], out_dir: epath.PathLike, **options: bool
    ) -> dict[str, float]:
        """The numbers of a `run` with these options."""
        return next(iter(self.run(variables, out_dir, **options).methods.values())).metrics

    def run(
        self,
        variables: Mapping[str, Any],
        out_dir: epath.PathLike,
        *,
        write_masks: bool = True,
        overwrite: bool = False,
    ) -> TrackResults:
        """Score the model with these variables, with every linker.

        Writes gt.json, results.json, scores.json and tables.txt; of other linkers the results and
        scores in linkers/<name>; (write_masks) overlays. FileExistsError where scores are there.
        """
        out_dir = epath.Path(out_dir)
        track_tables.refuse_existing(out_dir, overwrite)
        variables = jax.device_put(variables)
        process, processes = jax.process_index(), jax.process_count()
        own = self._videos[process::processes]
        progress = progress_bar(own, desc="evaluate", unit="video", shown=not process)
        overlays = out_dir / "overlays" if write_masks and self._config.eval.overlay else None

        def found() -> list[dict[str, list]]:
            return [
                {
                    name: [track.result(video.video_id) for track in tracks]
                    for name, tracks in self._tracks(variables, video, overlays, overwrite).items()
                }
                for video in progress
            ]

        videos = [video for part in on_every_process(found) for video in part]
        results = {
            name: sorted((x for v in videos for x in v[name]), key=lambda x: x["video_id"])
            for name in self._linkers
        }
        return self._finish(results, out_dir, overwrite)

    def _tracks(
        self, variables: Any, video: InstanceVideo, overlays: epath.Path | None, overwrite: bool
    ) -> dict[str, list[Track]]:
        """The tracks of a video by every linker, from one pass of the network."""
        linked = follow(self._inference, variables, self._linkers, video)
        tracks = {name: Tracks(self._inference.aggregate) for name in linked}
        for name, frames in linked.items():
            tracks[name].add(frames)
        if overlays is not None:
            _draw(video, linked[self._linkers[0]], overlays, overwrite)
        return {name: found.tracks(video.category_ids) for name, found in tracks.items()}

    def _finish(
        self, results: Mapping[str, list[dict]], out_dir: epath.Path, overwrite: bool
    ) -> TrackResults:
        """Scores, on every process, and files, on the first."""
        truths = {video.video_id: _truths(video) for video in self._videos}
        categories = dict(
            zip(self._videos[0].category_ids, self._videos[0].categories, strict=True)
        )

        def scored(entries: Sequence[dict], videos: Sequence[InstanceVideo]) -> TrackScores:
            scorer, found = TrackScorer(categories), {video.video_id: [] for video in videos}
            for entry in entries:
                if entry["video_id"] in found:
                    found[entry["video_id"]].append(_track(entry))
            for number, tracks in found.items():
                scorer.add(number, truths[number], tracks)
            return scorer.scores()

        methods = {name: scored(entries, self._videos) for name, entries in results.items()}
        groups = {
            group: {name: scored(entries, members) for name, entries in results.items()}
            for group, members in _groups(self._videos).items()
        }
        group = synthetic_vis.regime_of if groups else None
        found = TrackResults(methods, groups, floor_table(self._videos, group))

        def write() -> None:
            if jax.process_index() == 0:
                self._write(out_dir, results, found, overwrite)
                print(found.report())

        on_every_process(write)
        return found

    def _write(
        self,
        out_dir: epath.Path,
        results: Mapping[str, list[dict]],
        found: TrackResults,
        overwrite: bool,
    ) -> None:
        out_dir.mkdir(parents=True, exist_ok=True)
        first = next(iter(results))
        write_whole(out_dir / "gt.json", annotations_json(self._videos).encode())
        for name, entries in results.items():
            folder = out_dir if name == first else out_dir / "linkers" / name
            folder.mkdir(parents=True, exist_ok=True)
            write_whole(folder / "results.json", json.dumps(entries).encode())
            settings = {"linker": name, "videos": len(self._videos)}
            track_tables.write_scores(
                folder, found.methods[name], settings=settings, overwrite=overwrite
            )
        write_whole(out_dir / "tables.txt", f"{found.report()}\n".encode())
        write_report(out_dir, overwrite=True)


def follow(
    inference: VISInference, variables: Any, linkers: Sequence[str], video: InstanceVideo
) -> dict[str, list[Linked]]:
    """The frames of a video as each linker links them, from one pass of the network."""
    detector = Detector(inference.model, variables)
    begun = {name: inference.begin(name, variables) for name in linkers}
    linked: dict[str, list] = {name: [] for name in linkers}
    for t in range(len(video)):
        frame = video.frame(t)
        detected = detector(frame)
        for name, linker in begun.items():
            linked[name] += linked_by(linker, frame, detected)
    for name, linker in begun.items():
        linked[name] += linker.finish()
    return linked


def _check_categories(videos: Sequence[InstanceVideo], classes: int) -> None:
    """Raises ValueError unless all videos have the model's classes, and ids of their own."""
    first = videos[0]
    for video in videos:
        if video.categories != first.categories or video.category_ids != first.category_ids:
            raise ValueError(
                f"config.data.eval: expected sources of one set of categories, found those of"
                f" {first.dataset} and others in {video.dataset}; score them in runs of their own"
            )
    if len(first.categories) != classes:
        raise ValueError(
            f"config.model.classes: expected {len(first.categories)}, as many as the categories of"
            f" {first.dataset}, found {classes}"
        )
    if len({video.video_id for video in videos}) < len(videos):
        raise ValueError(
            "config.data.eval: two videos have one id; score their sources in runs of their own"
        )


def _truths(video: InstanceVideo) -> list[Track]:
    """The true tracks of a video, with the category ids of its data set."""
    numbers = video.category_ids
    return [
        replace(track, category_id=numbers[track.category_id - 1]) for track in true_tracks(video)
    ]


def _track(entry: Mapping[str, Any]) -> Track:
    """That of an entry of a results.json."""
    return Track.found(entry["category_id"], entry["segmentations"], entry["score"])


def _groups(videos: Sequence[InstanceVideo]) -> dict[str, list[InstanceVideo]]:
    """The videos of synthetic-vis-v1 by regime; nothing for other data."""
    if any(video.dataset != synthetic_vis.NAME for video in videos):
        return {}
    regimes: dict[str, list[InstanceVideo]] = {}
    for video in videos:
        regimes.setdefault(synthetic_vis.regime_of(video), []).append(video)
    return regimes


def _draw(
    video: InstanceVideo, linked: Sequence[Linked], folder: epath.Path, overwrite: bool
) -> None:
    """The overlay of a video, <folder>/<video>.gif."""
    nothing = np.zeros(video.original_size, np.uint8)
    with OverlayWriter(folder / f"{video.name}.gif", overwrite, fps=FPS) as writer:
        for t, one in enumerate(linked):
            marks = marks_of(one, video.categories)
            writer.write(FrameResult(video.frame_names[t], video.frame(t), nothing, marks=marks))
