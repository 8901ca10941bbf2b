"""Scoring results of video instance segmentation: `score --protocol youtube-vis`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from etils import epath

from vos_jax.data.track_files import read_annotations, read_results
from vos_jax.metrics import track_tables
from vos_jax.metrics.youtube_vis import TrackScorer, TrackScores
from vos_jax.notes import progress_bar


@dataclass(frozen=True)
class ScoredTracks:
    """scores: what was found. settings: the files. name: of the file of results."""

    scores: TrackScores
    settings: Mapping[str, Any]
    name: str

    def write(self, out: epath.PathLike, overwrite: bool = False) -> None:
        """Writes scores.json; FileExistsError where it is there."""
        track_tables.write_scores(out, self.scores, settings=self.settings, overwrite=overwrite)

    def report(self) -> str:
        """The tables as text."""
        return "\n\n".join(
            [
                track_tables.category_table(self.scores),
                track_tables.method_table({self.name: self.scores}),
                track_tables.statement(self.scores),
            ]
        )


def score_tracks(
    gt: epath.PathLike, pred: epath.PathLike, class_agnostic: bool = False
) -> ScoredTracks:
    """Score a results.json against an annotation file of YouTube-VIS.

    class_agnostic: categories play no part (useCats = 0 of the official tool).
    Raises FileNotFoundError for a missing file; ValueError, in one line, for one of another form,
    an unknown video or category, masks of another size or number, and withheld annotations.
    """
    annotations = read_annotations(gt)
    annotations.require_truth()
    results = read_results(pred, annotations)
    names = zip(annotations.categories.ids, annotations.categories.names, strict=True)
    scorer = TrackScorer(dict(names), class_agnostic)
    for video in progress_bar(annotations.videos, desc="score", unit="video"):
        scorer.add(video, annotations.truths(video), results.tracks(video))
    settings = {"gt": annotations.path, "pred": results.path}
    return ScoredTracks(scorer.scores(), settings, epath.Path(pred).stem)
