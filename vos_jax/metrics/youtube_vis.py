"""YouTube-VIS: average precision and recall of tracks, with the numbers of YTVOSeval.

The overlap of two tracks is the sum over frames of their common pixels, divided by that of the
pixels that either has; a frame where only one is there adds to the second sum. A true track of a
crowd has the same overlap, but counts as nothing (COCO would measure it otherwise). The area of a
track is its mean over frames. Everything else is `vos_jax.metrics.average_precision`.

Source: PythonAPI/pycocotools/ytvoseval.py of youtubevos/cocoapi. Deviations: true tracks are told
apart by their place in the file (there an id of 0 would never count as found), and masks of a wrong
size are refused before they get here (there the frame is dropped).

Glossary: D results and G true tracks of a video or frame, T frames.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from pycocotools import mask as coco

from vos_jax.data.rle import RLE
from vos_jax.data.track_files import Track
from vos_jax.metrics.average_precision import EVERYTHING, Curves, Place, precision_and_recall
from vos_jax.metrics.id_switches import IdSwitchCounter, IdSwitches

AREA_RANGES = (EVERYTHING, (0.0, 128.0**2), (128.0**2, 256.0**2), (256.0**2, 1e10))  # s, m, l
LIMITS = (1, 10, 100)  # results of a category in a video
MAIN_METRICS = ("AP", "AP50", "AP75", "AR1", "AR10")  # of papers
ALL_OBJECTS = "all objects"  # the category where categories play no part


def metrics_of(curves: Curves) -> dict[str, float]:
    """The twelve official numbers, in 0..1, -1 where there is nothing to find."""
    found = {
        "AP": curves.average_precision(),
        "AP50": curves.average_precision(0.5),
        "AP75": curves.average_precision(0.75),
    }
    found |= {f"AP{a}": curves.average_precision(area=n) for n, a in enumerate("sml", 1)}
    found |= {f"AR{limit}": curves.average_recall(m) for m, limit in enumerate(LIMITS)}
    return found | {f"AR{a}": curves.average_recall(area=n) for n, a in enumerate("sml", 1)}


def frame_overlaps(
    found: Sequence[Sequence[RLE | None]], truths: Sequence[Sequence[RLE | None]]
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
    """What D results and G true tracks share, frame by frame.

    Yields numbers of the results and of the true tracks with a mask, their pixels, and the pixels
    that each pair has in common [D, G], as whole numbers. All masks of a frame have one size.
    """
    frames = max((len(rles) for rles in (*found, *truths)), default=0)
    for t in range(frames):
        rows, columns = (
            [n for n, rles in enumerate(tracks) if rles[t] is not None]
            for tracks in (found, truths)
        )
        ours, theirs = [found[d][t] for d in rows], [truths[g][t] for g in columns]
        pixels = np.asarray(coco.area(ours + theirs), np.int64) if ours or theirs else np.zeros(0)
        ours_pixels, theirs_pixels = pixels[: len(ours)], pixels[len(ours) :]
        common = np.zeros((len(ours), len(theirs)))
        if ours and theirs:
            overlap = coco.iou(ours, theirs, [0] * len(theirs))
            # i / (a + b - i) is known; i is whole
            common = np.rint(overlap * (ours_pixels[:, None] + theirs_pixels) / (1 + overlap))
        yield np.array(rows, int), np.array(columns, int), ours_pixels, theirs_pixels, common


def track_overlaps(
    found: Sequence[Sequence[RLE | None]],
    truths: Sequence[Sequence[RLE | None]],
    switches: IdSwitchCounter | None = None,
) -> np.ndarray:
    """The overlaps of D results with G true tracks of a video, float64 [D, G]; 0 for empty ones.

    found, truths: masks of each in T frames. switches: is shown every frame on the way.
    """
    common = np.zeros((len(found), len(truths)))
    ours, theirs = np.zeros(len(found)), np.zeros(len(truths))
    for rows, columns, pixels, true_pixels, shared in frame_overlaps(found, truths):
        common[np.ix_(rows, columns)] += shared
        ours[rows] += pixels
        theirs[columns] += true_pixels
        if switches is not None:
            either = np.maximum(pixels[:, None] + true_pixels - shared, 1)
            switches.see(rows, columns, shared / either)
    either = ours[:, None] + theirs - common
    return np.where(either > 0, common / np.maximum(either, 1), 0)


class TrackScorer:
    """Scores tracks video by video; of a video only its overlaps are kept.

    categories: id -> name. class_agnostic: categories play no part (useCats = 0).
    """

    def __init__(self, categories: Mapping[int, str], class_agnostic: bool = False):
        self._categories = dict(sorted(categories.items()))
        self._class_agnostic = class_agnostic
        self._videos: dict[int, _ScoredVideo] = {}

    def add(self, video_id: int, truths: Sequence[Track], found: Sequence[Track]) -> None:
        """Take a video; videos may come in any order, each once."""
        if video_id in self._videos:
            raise ValueError(f"video {video_id} was scored before")
        switches = IdSwitchCounter(np.array([not track.crowd for track in truths], bool))
        overlaps = track_overlaps([t.rles for t in found], [t.rles for t in truths], switches)
        places = {}
        for number, rows, columns in self._groups(truths, found):
            places[number] = Place.of(
                overlaps[np.ix_(rows, columns)],
                [found[d].score for d in rows],
                [found[d].area for d in rows],
                [truths[g].area for g in columns],
                [truths[g].crowd for g in columns],
            )
        self._videos[video_id] = _ScoredVideo(places, switches.result())

    def scores(self) -> "TrackScores":
        """The numbers of all videos that were added."""
        names = {0: ALL_OBJECTS} if self._class_agnostic else self._categories
        videos = dict(sorted(self._videos.items()))
        groups = {c: [v.places[c] for v in videos.values() if c in v.places] for c in names}
        curves = precision_and_recall(groups, area_ranges=AREA_RANGES, limits=LIMITS)
        per_category = {
            name: _facts(curves.category(k), groups[c]) for k, (c, name) in enumerate(names.items())
        }
        per_sequence = {i: _video_facts(video) for i, video in videos.items()}
        switches = sum((video.switches for video in videos.values()), IdSwitches())
        return TrackScores(
            metrics_of(curves), per_category, per_sequence, switches, curves, self._class_agnostic
        )

    def _groups(
        self, truths: Sequence[Track], found: Sequence[Track]
    ) -> Iterator[tuple[int, list[int], list[int]]]:
        """Category, its results and its true tracks, where there is one of either."""
        if self._class_agnostic:  # equal scores: by category, as the official pool is filled
            rows = sorted(range(len(found)), key=lambda d: found[d].category_id)
            columns = sorted(range(len(truths)), key=lambda g: truths[g].category_id)
            yield 0, rows, columns
            return
        for c in sorted({track.category_id for track in (*truths, *found)}):
            rows, columns = (
                [n for n, track in enumerate(tracks) if track.category_id == c]
                for tracks in (found, truths)
            )
            yield c, rows, columns


@dataclass(frozen=True)
class TrackScores:
    """What scoring tracks found; numbers are in 0..1, or -1 where there is nothing to find.

    metrics: the official twelve. per_category: name -> MAIN_METRICS, tracks, detections.
    per_sequence: video id -> the same and its id switches. curves: [..., K, A, M], see `Curves`.
    """

    metrics: dict[str, float]
    per_category: dict[str, dict[str, float]]
    per_sequence: dict[int, dict[str, float]]
    switches: IdSwitches
    curves: Curves
    class_agnostic: bool


@dataclass(frozen=True)
class _ScoredVideo:
    places: dict[int, Place]
    switches: IdSwitches


def _facts(curves: Curves, places: Sequence[Place]) -> dict[str, float]:
    found = metrics_of(curves)
    return {name: found[name] for name in MAIN_METRICS} | {
        "tracks": sum(len(place.crowd) for place in places),
        "detections": sum(len(place.scores) for place in places),
    }


def _video_facts(video: _ScoredVideo) -> dict[str, float]:
    places = list(video.places.values())
    curves = precision_and_recall([[place] for place in places], limits=LIMITS)
    numbers = {
        "AP": curves.average_precision(),
        "AP50": curves.average_precision(0.5),
        "AP75": curves.average_precision(0.75),
        "AR1": curves.average_recall(0),
        "AR10": curves.average_recall(1),
    }
    return numbers | {
        "tracks": sum(len(place.crowd) for place in places),
        "detections": sum(len(place.scores) for place in places),
        "id_switches": video.switches.switches,
    }
