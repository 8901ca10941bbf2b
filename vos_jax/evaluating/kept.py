"""Scores of floors, kept from one evaluation to the next: they do not change while a model trains.

A file for each floor, <folder>/<floor>.json, holds the scores of videos by name, each with a key of
all that they depend on: the floor's identity, the protocol, what is known of the video and the
pixels of its first frame and mask. Anything that does not fit is computed again.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from vos_jax.data.clip import Video
from vos_jax.files import write_whole
from vos_jax.metrics.protocols import Protocol
from vos_jax.metrics.scores import ObjectScores
from vos_jax.notes import note


class KeptScores:
    """The scores of floors in a folder.

    identities: floor -> whatever its label maps depend on besides the video, as text.
    """

    def __init__(self, folder: epath.PathLike, identities: Mapping[str, str], protocol: Protocol):
        self.folder, self._identities = epath.Path(folder), identities
        self._protocol = protocol
        self._stored = {name: _read(self._file(name)) for name in identities}
        self._keys: dict[str, str] = {}

    def find(self, video: Video) -> dict[str, list[ObjectScores]]:
        """Floor -> scores of a video, for the floors that have them."""
        found = {}
        for name in self._identities:
            entry = self._stored[name].get(video.name)
            if entry is not None and entry["key"] == self._key(name, video):
                found[name] = from_plain(entry["scores"])
        return found

    def save(self, videos: Sequence[Video], scores: Mapping[str, list[ObjectScores]]) -> None:
        """Keep what was computed of these videos, beside what is kept of others."""
        for name in self._identities:
            entries = dict(self._stored[name])
            of_video: dict[str, list[ObjectScores]] = {video.name: [] for video in videos}
            for found in scores[name]:
                of_video[found.sequence].append(found)
            for video in videos:
                plain = to_plain(of_video[video.name])
                entries[video.name] = {"key": self._key(name, video), "scores": plain}
            if entries != self._stored[name]:
                self.folder.mkdir(parents=True, exist_ok=True)
                write_whole(self._file(name), _text(entries).encode())
                self._stored[name] = entries

    def _file(self, name: str) -> epath.Path:
        return self.folder / f"{name}.json"

    def _key(self, name: str, video: Video) -> str:
        if video.name not in self._keys:
            self._keys[video.name] = _digest_of(video)
        texts = (self._identities[name], repr(self._protocol), self._keys[video.name])
        return hashlib.sha256("\n".join(texts).encode()).hexdigest()


def to_plain(scores: Sequence[ObjectScores]) -> list[dict[str, Any]]:
    """Scores as JSON can hold them, to the last bit."""
    return [
        {
            "sequence": found.sequence,
            "object_id": found.object_id,
            "values": {m: np.asarray(x, float).tolist() for m, x in found.values.items()},
            "category": found.category,
            "proposal": found.proposal,
        }
        for found in scores
    ]


def from_plain(scores: Sequence[Mapping[str, Any]]) -> list[ObjectScores]:
    """The inverse of `to_plain`."""
    return [
        ObjectScores(**{**found, "values": {m: np.array(x) for m, x in found["values"].items()}})
        for found in scores
    ]


def _digest_of(video: Video) -> str:
    digest = hashlib.sha256(repr((video.dataset, video.name, video.original_size)).encode())
    digest.update(repr((video.frame_names, video.mask_files, video.categories)).encode())
    for facts in (video.ids, video.given, video.scored):
        digest.update(repr((facts.dtype.str, facts.shape)).encode() + facts.tobytes())
    digest.update(video.frame(0).tobytes())
    annotated = np.flatnonzero(video.annotated)
    if annotated.size:
        digest.update(video.mask(int(annotated[0])).tobytes())
    return digest.hexdigest()


def _text(entries: Mapping[str, Any]) -> str:
    """Of a file: the entries, and a sum by which damage is seen."""
    body = json.dumps(entries, sort_keys=True)
    return json.dumps({"sha256": hashlib.sha256(body.encode()).hexdigest(), "videos": entries})


def _read(file: epath.Path) -> dict[str, Any]:
    """The entries of a file; none where it is not there or damaged."""
    if not file.exists():
        return {}
    try:
        text = file.read_text()
        entries = json.loads(text)["videos"]
        whole = _text(entries) == text
    except (ValueError, KeyError, TypeError):
        whole = False
    if not whole:
        note(f"{file} is damaged; the floor's scores are computed again")
        return {}
    return entries
