"""Floors of video instance segmentation: what the true masks score when linked without a network.

    truth, linked by boxes    the true masks of every frame, linked by the overlap of their boxes
    first frame, copied       the masks of frame 0 in every frame
    truth                     the true masks with their identities: the most that there is

Every table of results prints them, for all videos and by groups such as the regimes of
synthetic-vis-v1:

    videos = synthetic_vis_videos("test")
    print(floor_table(videos, regime_of))
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from vos_jax.data.instances import InstanceVideo
from vos_jax.data.track_files import Track
from vos_jax.inference.linking.base import Found, Linked, Linker
from vos_jax.inference.linking.iou import BoxLinker
from vos_jax.inference.tracks import Tracks, link
from vos_jax.metrics.text_table import format_table
from vos_jax.metrics.youtube_vis import TrackScorer, TrackScores

ALL = "all"
LINKED, COPIED, TRUTH = "truth, linked by boxes", "first frame, copied", "truth"


def true_tracks(video: InstanceVideo) -> list[Track]:
    """The instances of a video as tracks; category ids are the classes 1, 2, ..."""
    frames = [video.rles(t) for t in range(len(video))]
    masks = [list(rles) for rles in zip(*frames, strict=True)]
    found = [Track.found(int(c), m, 1.0) for c, m in zip(video.classes, masks, strict=True)]
    return [
        Track(track.category_id, track.rles, crowd=bool(crowd), area=track.area)
        for track, crowd in zip(found, video.crowd, strict=True)
    ]


def true_detections(video: InstanceVideo, t: int) -> Found:
    """The instances of frame t, without crowds, as a perfect detector would find them."""
    there = np.flatnonzero(video.valid[t] & ~video.crowd)
    rles = video.rles(t)
    return Found(
        boxes=video.boxes(t)[there],
        scores=np.ones(len(there), np.float32),
        classes=video.classes[there],
        rles=[rles[n] for n in there],
        size=video.original_size,
    )


def linked_tracks(video: InstanceVideo, linker: Linker) -> list[Track]:
    """The true masks of a video, linked by a new linker."""
    detected = ((video.frame(t), true_detections(video, t)) for t in range(len(video)))
    return link(detected, {LINKED: linker})[LINKED]


def copied_tracks(video: InstanceVideo) -> list[Track]:
    """The masks of frame 0 in every frame."""
    first = true_detections(video, 0)
    tracks = Tracks()
    tracks.add([Linked(first, np.arange(len(first)))] * len(video))
    return tracks.tracks()


FLOORS: Mapping[str, Callable[[InstanceVideo], list[Track]]] = {
    LINKED: lambda video: linked_tracks(video, BoxLinker()),
    COPIED: copied_tracks,
    TRUTH: true_tracks,
}


def track_floors(
    videos: Sequence[InstanceVideo], group: Callable[[InstanceVideo], str] | None = None
) -> dict[str, dict[str, TrackScores]]:
    """Scores of every floor by group, "all" first; group: of a video, None for no groups."""
    groups = {ALL: list(videos)}
    for video in videos if group else ():
        groups.setdefault(group(video), []).append(video)
    truths = {id(video): true_tracks(video) for video in videos}
    scores = {}
    for name, floor in FLOORS.items():
        found = {id(video): floor(video) for video in videos}
        scores[name] = {key: _score(members, truths, found) for key, members in groups.items()}
    return scores


def floor_table(
    videos: Sequence[InstanceVideo], group: Callable[[InstanceVideo], str] | None = None
) -> str:
    """AP of every floor, over all videos and by group, with the id switches over all."""
    scores = track_floors(videos, group)
    columns = list(next(iter(scores.values())))
    rows = [
        (name, *(f"{by_group[key].metrics['AP']:.3f}" for key in columns))
        + (str(by_group[ALL].switches.switches),)
        for name, by_group in scores.items()
    ]
    return format_table([("AP", *columns, "id switches"), *rows])


def _score(
    videos: Sequence[InstanceVideo],
    truths: Mapping[int, list[Track]],
    found: Mapping[int, list[Track]],
) -> TrackScores:
    scorer = TrackScorer(dict(enumerate(videos[0].categories, 1)))
    for number, video in enumerate(videos, 1):
        scorer.add(number, truths[id(video)], found[id(video)])
    return scorer.scores()
