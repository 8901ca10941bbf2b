"""The json files of YouTube-VIS: annotations of a split, and results for it.

Annotations: {videos: [{id, width, height, length, file_names}], categories: [{id, name}],
annotations: [{id, video_id, category_id, iscrowd, segmentations, bboxes, areas}]}, one annotation a
track, with an entry or null for every frame. Results: [{video_id, category_id, score,
segmentations}]. Segmentations are run lengths, in annotations polygons, too. The annotations of the
splits valid and test are withheld: their files have none.
"""

import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from vos_jax.data.coco import (
    Categories,
    categories_of,
    check_size,
    is_crowd,
    read_tables,
    whole_number,
)
from vos_jax.data.folders import inner_name, read_json
from vos_jax.data.instances import InstanceVideo
from vos_jax.data.rle import RLE, areas, from_segmentations

RESULT_KEYS = ("video_id", "category_id", "score", "segmentations")


@dataclass(frozen=True)
class Track:
    """One object through a video of T frames.

    category_id: as in the annotation file. rles: T masks, None where it is absent. score: of a
    result; 1 for the truth. crowd: many objects that nobody told apart. area: mean pixels of the
    frames that have any, 0 without one.
    """

    category_id: int
    rles: list[RLE | None]
    score: float = 1.0
    crowd: bool = False
    area: float = 0.0

    @classmethod
    def found(cls, category_id: int, rles: list[RLE | None], score: float) -> "Track":
        """A result, whose area is that of its masks."""
        return cls(category_id, rles, score, area=mean_area(areas(rles)))

    def result(self, video_id: int) -> dict[str, Any]:
        """The entry of a results.json."""
        values = (int(video_id), int(self.category_id), float(self.score), self.rles)
        return dict(zip(RESULT_KEYS, values, strict=True))


class VideoFacts(NamedTuple):
    """What an annotation file says of a video; size: (H, W)."""

    id: int
    size: tuple[int, int]
    length: int
    file_names: list[str]


@dataclass(frozen=True)
class Annotations:
    """An annotation file: videos by ascending id, and the raw annotations of each."""

    path: str
    videos: dict[int, VideoFacts]
    categories: Categories
    raw: Mapping[int, list[Mapping]]
    annotated: bool

    def truths(self, video_id: int) -> list[Track]:
        """The true tracks of a video in the order of the file; ValueError for damaged ones."""
        return [self._truth(self.videos[video_id], entry) for entry in self.raw.get(video_id, ())]

    def require_truth(self) -> None:
        """Raises ValueError where the file has no annotations."""
        if not self.annotated:
            raise ValueError(
                f"{self.path}: the file has no annotations; those of the splits valid and test are"
                " withheld, and their results are scored by the data set's server (packed by"
                " vos_jax.package). To score here, hold a part of the training videos back"
            )

    def _truth(self, video: VideoFacts, entry: Mapping) -> Track:
        rles = masks_of(entry, video, f"{self.path}, annotation {entry.get('id')}")
        pixels = areas(rles) if entry.get("areas") is None else entry["areas"]
        crowd = is_crowd(entry, self.path)
        return Track(entry["category_id"], rles, crowd=crowd, area=mean_area(pixels))


@dataclass(frozen=True)
class Results:
    """A results file, checked but for its masks, by video."""

    path: str
    annotations: Annotations
    raw: Mapping[int, list[tuple[int, Mapping]]]

    def tracks(self, video_id: int) -> list[Track]:
        """The results of a video in the order of the file; ValueError for damaged masks."""
        video = self.annotations.videos[video_id]
        return [
            Track.found(
                entry["category_id"],
                masks_of(entry, video, f"{self.path}, result {number}"),
                float(entry["score"]),
            )
            for number, entry in self.raw.get(video_id, ())
        ]


def mean_area(pixels: Sequence[float | None]) -> float:
    """Mean of the areas that are not 0 or None, as YTVOSeval has it; 0 without one."""
    counted = [area for area in pixels if area]
    return float(np.mean(counted)) if counted else 0.0


def read_annotations(path: epath.PathLike) -> Annotations:
    """The annotation file of a split; raises FileNotFoundError and ValueError that name it."""
    path = epath.Path(path)
    content = read_tables(path, ("videos", "categories"), optional=("annotations",))
    categories = categories_of(content["categories"], path)
    videos = {}
    for entry in content["videos"]:
        video = _facts(entry, path)
        if video.id in videos:
            raise ValueError(f"{path}: two videos have the id {video.id}")
        videos[video.id] = video
    raw = defaultdict(list)
    for entry in content.get("annotations") or ():
        where = f"{path}, annotation {entry.get('id')}"
        _check_ids(entry, videos, categories, where)
        _check_length(entry, videos[entry["video_id"]], where)
        _check_facts(entry, videos[entry["video_id"]], where)
        raw[entry["video_id"]].append(entry)
    return Annotations(str(path), dict(sorted(videos.items())), categories, dict(raw), bool(raw))


def read_results(path: epath.PathLike, annotations: Annotations) -> Results:
    """Results for the videos of an annotation file; masks are checked where they are asked for.

    Raises FileNotFoundError; ValueError in one line for a file of another form, an unknown video
    or category, another number of frames, or a score that is no number.
    """
    path = epath.Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file of results")
    content = read_json(path)
    if not isinstance(content, list):
        kind = f"an object with {sorted(content)}" if isinstance(content, dict) else repr(content)
        raise ValueError(f"{path}: expected a list of results, found {kind}")
    raw = defaultdict(list)
    for number, entry in enumerate(content):
        where = f"{path}, result {number}"
        missing = [key for key in RESULT_KEYS if not isinstance(entry, dict) or key not in entry]
        if missing:
            raise ValueError(f"{where}: expected {', '.join(RESULT_KEYS)}; missing: {missing[0]}")
        _check_ids(entry, annotations.videos, annotations.categories, where)
        _check_length(entry, annotations.videos[entry["video_id"]], where)
        score = entry["score"]
        if (
            isinstance(score, bool)
            or not isinstance(score, (int, float))
            or not math.isfinite(score)
        ):
            raise ValueError(f"{where}: expected a number as score, found {score!r}")
        raw[entry["video_id"]].append((number, entry))
    return Results(str(path), annotations, dict(raw))


def results_json(tracks: Mapping[int, Sequence[Track]]) -> str:
    """The text of a results.json: the tracks of each video id in their order."""
    return json.dumps([track.result(number) for number in tracks for track in tracks[number]])


def annotations_json(videos: Sequence[InstanceVideo]) -> str:
    """The text of an annotation file that holds the truth of videos of one set of categories."""
    listed, annotations = [], []
    for video in videos:
        height, width = video.original_size
        listed.append(
            {
                "id": int(video.video_id),
                "width": int(width),
                "height": int(height),
                "length": len(video),
                "file_names": [f"{video.name}/{stem}.jpg" for stem in video.frame_names],
            }
        )
        frames = [video.rles(t) for t in range(len(video))]
        for n, masks in enumerate(zip(*frames, strict=True)):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "video_id": int(video.video_id),
                    "category_id": int(video.category_ids[video.classes[n] - 1]),
                    "iscrowd": int(video.crowd[n]),
                    "segmentations": list(masks),
                    "bboxes": [_bbox(video.boxes(t)[n], mask) for t, mask in enumerate(masks)],
                    "areas": [None if m is None else int(areas([m])[0]) for m in masks],
                }
            )
    names = zip(videos[0].category_ids, videos[0].categories, strict=True)
    categories = [{"id": int(number), "name": name} for number, name in names]
    content = {"videos": listed, "categories": categories, "annotations": annotations}
    return json.dumps(content)


def _bbox(box: np.ndarray, mask: RLE | None) -> list[float] | None:
    """x, y, width, height of corners."""
    return None if mask is None else [*map(float, box[:2]), *map(float, box[2:] - box[:2])]


def _facts(entry: Mapping, path: epath.Path) -> VideoFacts:
    files, where = entry.get("file_names"), f"{path}, video {entry.get('id')}"
    if not isinstance(files, list) or not all(isinstance(name, str) for name in files):
        raise ValueError(f"{where}: expected file_names to be a list of names, found {files!r:.60}")
    number, height, width = (whole_number(entry, key, where) for key in ("id", "height", "width"))
    length = whole_number({"length": len(files), **entry}, "length", where)
    video = VideoFacts(number, (height, width), length, files)
    check_size(video.size, f"{path}, video {video.id}")
    for name in files:
        inner_name(name, f"{path}, video {video.id}")
    if video.length != len(files) or not files:
        raise ValueError(
            f"{path}, video {video.id}: its length is {video.length}, but it has {len(files)} files"
        )
    return video


def _check_ids(
    entry: Mapping, videos: Mapping[int, VideoFacts], categories: Categories, where: str
) -> None:
    video = entry.get("video_id")
    if isinstance(video, bool) or not isinstance(video, int) or video not in videos:
        known = sorted(videos)
        raise ValueError(
            f"{where}: there is no video {video!r} in the annotation file, whose {len(known)}"
            f" videos have the ids {known[0]} to {known[-1]}; are they of one split?"
            if known
            else f"{where}: the annotation file lists no video"
        )
    categories.class_of(entry.get("category_id"), where)


def _check_length(entry: Mapping, video: VideoFacts, where: str) -> None:
    found = entry.get("segmentations")
    if not isinstance(found, list) or len(found) != video.length:
        count = f"{len(found)}" if isinstance(found, list) else "no list"
        raise ValueError(
            f"{where}: video {video.id} has {video.length} frames, expected as many segmentations"
            f" (null where the object is absent), found {count}"
        )


def _check_facts(entry: Mapping, video: VideoFacts, where: str) -> None:
    """Areas and boxes, which a file may lack, are one for every frame."""
    for name, kinds in (("areas", (int, float)), ("bboxes", list)):
        found = entry.get(name)
        if found is None:
            continue
        right = isinstance(found, list) and len(found) == video.length
        if not right or not all(x is None or isinstance(x, kinds) for x in found):
            kind = "numbers" if name == "areas" else "lists of four numbers"
            raise ValueError(
                f"{where}: expected {name} to be {kind} or null, one for each of the"
                f" {video.length} frames of video {video.id}"
            )


def masks_of(entry: Mapping, video: VideoFacts, where: str) -> list[RLE | None]:
    """The masks of an annotation or result in the frames of its video; see `from_segmentations`."""
    names = [f"{where}, video {video.id}, frame {t}" for t in range(video.length)]
    return from_segmentations(entry["segmentations"], video.size, names)
