"""Scores of one sequence under a protocol, fed one frame at a time.

Files against files (`score`) and a model against a data set (`evaluate`) go through here. Nothing
but numbers is kept of a frame, so memory does not grow with the length of a video.
"""

from collections.abc import Sequence

import numpy as np
from scipy.optimize import linear_sum_assignment

from vos_jax.data.clip import VOID, Video
from vos_jax.metrics.frame import frame_scores, pair_scores
from vos_jax.metrics.protocols import Protocol
from vos_jax.metrics.scores import ObjectScores
from vos_jax.metrics.temporal.stability import TemporalStability


class SequenceScorer:
    """Compares the label maps of one sequence with its annotation, frame by frame.

    name: of the sequence. ids [K], scored bool [T, K] and categories: those of `Video`. Under a
    protocol that merges, all objects are id 1 and count wherever one of them does.
    """

    def __init__(
        self,
        protocol: Protocol,
        name: str,
        ids: np.ndarray,
        scored: np.ndarray,
        categories: Sequence[str] | None = None,
    ):
        anywhere = scored.any(axis=1, keepdims=True)
        if protocol.merged and len(ids):
            ids, scored, categories = np.array([1]), anywhere, (categories or [None])[:1]
        self._protocol, self._name = protocol, name
        self._ids, self._scored = np.asarray(ids, int), scored
        self._categories = categories or [None] * len(ids)
        self._temporal = None
        if "T" in protocol.measures_of(name):
            self._temporal = [TemporalStability() for _ in ids]
        proposals = max(protocol.proposals, len(ids)) if protocol.proposals else 0
        self._proposals = np.arange(1, proposals + 1)
        self._used = 0  # the largest proposal met
        self._rows = {measure: [] for measure in protocol.measures if measure != "T"}
        known = self._proposals[: protocol.proposals] if protocol.proposals else self._ids
        self._unknown = ~np.isin(np.arange(256), [0, *known])

    @classmethod
    def of(cls, protocol: Protocol, video: Video) -> "SequenceScorer":
        """The scorer of an annotated video."""
        return cls(protocol, video.name, video.ids, video.scored, video.categories)

    @property
    def scored(self) -> np.ndarray:
        """bool [T, K] of the objects the protocol knows; `add` expects the frames with any."""
        return self._scored

    @property
    def num_objects(self) -> int:
        """Objects with a scored frame."""
        return int(self._scored.any(axis=0).sum())

    def add(self, t: int, truth: np.ndarray, labels: np.ndarray, where: str) -> None:
        """Score frame t.

        truth, labels: uint8 label maps [H, W]; void is 255 in `truth`. where: names the prediction
        in messages. Frames come in order, each scored one once.
        Raises ValueError for sizes that differ and for ids that cannot be scored.
        """
        self._check(truth, labels, where)
        void = truth == VOID if self._protocol.ignore_void else None
        if self._protocol.merged:
            truth, labels = (truth != 0) & (truth != VOID), labels != 0
            truth, labels = truth.view(np.uint8), labels.view(np.uint8)
        if self._protocol.proposals:
            pairs = pair_scores(truth, labels, self._ids, self._proposals, void)
            self._used = max(self._used, int(labels.max()))
            found = dict(zip(("J", "F"), pairs, strict=True))
        else:
            found = self._by_id(np.flatnonzero(self._scored[t]), truth, labels, void)
        for measure, rows in self._rows.items():
            rows.append(found[measure])

    def scores(self) -> list[ObjectScores]:
        """The objects with a scored frame, in the order of their ids, after the last frame."""
        if not self._scored.any():
            return []
        rows = {measure: np.array(rows) for measure, rows in self._rows.items()}
        if self._protocol.proposals:
            return self._matched(rows)
        counted = self._scored[self._scored.any(axis=1)]
        return [
            self._object(k, {measure: values[counted[:, k], k] for measure, values in rows.items()})
            for k in np.flatnonzero(counted.any(axis=0))
        ]

    def _by_id(
        self, columns: np.ndarray, truth: np.ndarray, labels: np.ndarray, void: np.ndarray | None
    ) -> dict[str, np.ndarray]:
        """Measure -> [K], NaN for objects that are not among the scored `columns`."""
        ids = self._ids[columns]
        boundaries = "F" in self._protocol.measures
        scores = [*frame_scores(truth, labels, ids, void, boundaries=boundaries)]
        scores.append([np.count_nonzero((truth == i) != (labels == i)) for i in ids])
        found = {}
        for measure, values in zip(("J", "F", "E"), scores, strict=True):
            found[measure] = np.full(len(self._ids), np.nan)
            found[measure][columns] = values
        if self._temporal is not None:
            for k in columns:
                self._temporal[k].add(labels == self._ids[k])
        return found

    def _matched(self, rows: dict[str, np.ndarray]) -> list[ObjectScores]:
        """Objects with the proposals that the Hungarian algorithm gives them.

        rows: measure -> [T, P, K]. The similarity is the mean over time of (J + F) / 2; where there
        are fewer proposals than objects, empty masks fill up. Proposals left over cost nothing.
        """
        used = max(self._used, len(self._ids))
        similarity = (rows["J"][:, :used].mean(axis=0) + rows["F"][:, :used].mean(axis=0)) / 2
        proposals, objects = linear_sum_assignment(-similarity)
        of_object = dict(zip(objects, proposals, strict=True))
        return [
            self._object(
                k,
                {measure: values[:, of_object[k], k] for measure, values in rows.items()},
                proposal=int(of_object[k]) + 1,
            )
            for k in range(len(self._ids))
        ]

    def _object(
        self, k: int, values: dict[str, np.ndarray], proposal: int | None = None
    ) -> ObjectScores:
        if "T" in self._protocol.measures:
            undefined = np.array([np.nan])
            temporal = undefined if self._temporal is None else self._temporal[k].values()
            values = {**values, "T": temporal}
        return ObjectScores(self._name, int(self._ids[k]), values, self._categories[k], proposal)

    def _check(self, truth: np.ndarray, labels: np.ndarray, where: str) -> None:
        if truth.shape != labels.shape:
            raise ValueError(
                f"{where}: the result is {_size(labels)} (height x width), its annotation"
                f" {_size(truth)}; write results at the size of the annotations"
            )
        if self._protocol.merged or not self._unknown[labels].any():
            return
        found = sorted(set(np.unique(labels[self._unknown[labels]]).tolist()))
        if self._protocol.proposals:
            expected = f"at most {self._protocol.proposals} proposals with ids from 1 on"
        else:
            expected = f"only ids of the annotation, {self._ids.tolist()}"
        raise ValueError(
            f"{where}: expected {expected}, found ids {found} in sequence {self._name};"
            " 0 is background, and results must use the ids of the annotation"
        )


def _size(labels: np.ndarray) -> str:
    return "x".join(map(str, labels.shape))
