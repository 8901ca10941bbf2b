"""Average precision of scored detections, from their overlaps with the true objects.

The algorithm is that of COCO's evaluation (pycocotools) and of its form for videos (YTVOSeval of
youtubevos/cocoapi, where an overlap is that of whole tracks). What an overlap and an area is, who
counts the detections of a place and which ranges of areas there are, is up to the caller: images,
boxes and videos share this.

Glossary: D detections, G truths of one category in one image or video (a `Place`), T thresholds of
overlap, R levels of recall, K categories, A ranges of areas, M limits of detections.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0, 1, 101)
EVERYTHING = (0.0, 1e10)  # areas


@dataclass(frozen=True)
class Place:
    """Detections and truths of one category in one image or video.

    overlaps: float [D, G] in 0..1. scores: float [D]. areas: float [D]. truth_areas: float [G].
    crowd: bool [G], truths that may be detected any number of times and count as nothing.
    """

    overlaps: np.ndarray
    scores: np.ndarray
    areas: np.ndarray
    truth_areas: np.ndarray
    crowd: np.ndarray

    @classmethod
    def of(cls, overlaps, scores, areas=None, truth_areas=None, crowd=None) -> "Place":
        """Where areas do not matter (None) they are 0, where crowds do not, none is one."""
        overlaps = np.asarray(overlaps, np.float64)
        detections, truths = overlaps.shape
        return cls(
            overlaps,
            np.asarray(scores, np.float64),
            np.zeros(detections) if areas is None else np.asarray(areas, np.float64),
            np.zeros(truths) if truth_areas is None else np.asarray(truth_areas, np.float64),
            np.zeros(truths, bool) if crowd is None else np.asarray(crowd, bool),
        )


@dataclass(frozen=True)
class Curves:
    """precision: float [T, R, K, A, M]; recall: float [T, K, A, M]; -1 where there is no truth."""

    precision: np.ndarray
    recall: np.ndarray

    def category(self, k: int) -> "Curves":
        """The curves of category number k alone."""
        return Curves(self.precision[:, :, [k]], self.recall[:, [k]])

    def average_precision(self, threshold: float | None = None, area: int = 0) -> float:
        """Mean precision over recalls and categories with the highest limit of detections.

        threshold: at this overlap, None: mean over all. area: number of a range. -1 without truths.
        """
        return _mean_of_known(_at(self.precision, threshold)[..., area, -1])

    def average_recall(self, limit: int = -1, area: int = 0) -> float:
        """Mean over overlaps and categories of the highest recall; limit: number of one of them."""
        return _mean_of_known(self.recall[..., area, limit])


def precision_and_recall(
    categories: Mapping[int, Sequence[Place]] | Sequence[Sequence[Place]],
    *,
    thresholds: np.ndarray = THRESHOLDS,
    area_ranges: Sequence[tuple[float, float]] = (EVERYTHING,),
    limits: Sequence[int] = (100,),
) -> Curves:
    """The curves of every category, whose places come in the order of their ids.

    area_ranges: lowest and highest area that counts, inclusive. limits: of each place so many
    detections with the highest scores count, ascending.
    """
    places = list(categories.values() if isinstance(categories, Mapping) else categories)
    shape = (len(places), len(area_ranges), len(limits))
    precision = np.full((len(thresholds), len(RECALLS), *shape), -1.0)
    recall = np.full((len(thresholds), *shape), -1.0)
    for k, group in enumerate(places):
        for a, area_range in enumerate(area_ranges):
            found = [_match(place, thresholds, area_range, limits[-1]) for place in group]
            for m, limit in enumerate(limits):
                curves = _accumulate([each.first(limit) for each in found], len(thresholds))
                if curves is not None:
                    precision[..., k, a, m], recall[..., k, a, m] = curves
    return Curves(precision, recall)


@dataclass(frozen=True)
class _Matched:
    """scores [D] descending; hit and ignored: bool [T, D]; truths: how many count."""

    scores: np.ndarray
    hit: np.ndarray
    ignored: np.ndarray
    truths: int

    def first(self, limit: int) -> "_Matched":
        return _Matched(
            self.scores[:limit], self.hit[:, :limit], self.ignored[:, :limit], self.truths
        )


def _match(
    place: Place, thresholds: np.ndarray, area_range: tuple[float, float], limit: int
) -> _Matched:
    """Detections take truths by turns, the highest score first, each the one it overlaps most.

    A truth that counts comes before one that does not; of equal overlaps the last truth is taken.
    """
    order = np.argsort(-place.scores, kind="stable")[:limit]
    unwanted = place.crowd | _outside(place.truth_areas, area_range)
    least = np.minimum(thresholds, 1 - 1e-10)[:, None]
    free = np.ones((len(thresholds), len(unwanted)), bool)
    hit, ignored = np.zeros((2, len(thresholds), len(order)), bool)
    rows = np.arange(len(thresholds))
    for place_in_order, d in enumerate(order if len(unwanted) else ()):
        overlap = np.where((free | place.crowd) & (place.overlaps[d] >= least), 1, 0)
        overlap = overlap * (1 + place.overlaps[d])  # 0: cannot be taken
        wanted = np.where(unwanted, 0, overlap)
        chosen = np.where((wanted > 0).any(axis=1), _last_largest(wanted), _last_largest(overlap))
        took = overlap[rows, chosen] > 0
        free[rows[took], chosen[took]] = False
        hit[:, place_in_order] = took
        ignored[:, place_in_order] = took & unwanted[chosen]
    ignored |= ~hit & _outside(place.areas[order], area_range)
    return _Matched(place.scores[order], hit, ignored, int((~unwanted).sum()))


def _outside(areas: np.ndarray, area_range: tuple[float, float]) -> np.ndarray:
    return (areas < area_range[0]) | (areas > area_range[1])


def _last_largest(x: np.ndarray) -> np.ndarray:
    """Index of the last of the largest values of each row."""
    return x.shape[1] - 1 - np.argmax(x[:, ::-1], axis=1)


def _accumulate(found: Sequence[_Matched], count: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Precision [T, R] and recall [T] of a category, None without a truth that counts."""
    truths = sum(each.truths for each in found)
    if truths == 0:
        return None
    scores = np.concatenate([each.scores for each in found])
    order = np.argsort(-scores, kind="stable")
    hit, ignored = (
        np.concatenate([getattr(each, name) for each in found], axis=1)[:, order]
        for name in ("hit", "ignored")
    )
    true = np.cumsum(hit & ~ignored, axis=1, dtype=np.float64)
    false = np.cumsum(~hit & ~ignored, axis=1, dtype=np.float64)
    recall = true / truths
    precision = true / (true + false + np.spacing(1))
    envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    levels = np.zeros((count, len(RECALLS)))
    for t in range(count):
        index = np.searchsorted(recall[t], RECALLS, side="left")
        reached = index < recall.shape[1]
        levels[t, reached] = envelope[t, index[reached]]
    return levels, recall[:, -1] if recall.shape[1] else np.zeros(count)


def _at(precision: np.ndarray, threshold: float | None) -> np.ndarray:
    if threshold is None:
        return precision
    index = np.flatnonzero(np.isclose(THRESHOLDS, threshold))
    if not len(index):
        raise ValueError(f"expected a threshold of {THRESHOLDS.round(2)}, found {threshold}")
    return precision[index]


def _mean_of_known(values: np.ndarray) -> float:
    known = values[values > -1]
    return float(known.mean()) if known.size else -1.0
