"""YouTube-VIS 2019 and 2021 in their official layouts.

    <dir>/<split>/JPEGImages/<video>/00000.jpg
    <dir>/<split>.json                                2019
    <dir>/<split>/instances.json                      2021
    <dir>/annotations/instances_<split>[_sub].json    as MaskTrack R-CNN names them

The splits are train, valid and test; the annotations of valid and test are withheld, so a local
study holds a part of train back: part="9/10" are the videos whose id leaves 0 to 8 when divided by
10, part="rest of 9/10" the others, whatever else is in the file. Only annotated frames count, every
5th of a video. Classes are numbered from 1 in the order of the category ids, which need not be
contiguous. The form of the json files is that of `vos_jax.data.track_files`.
"""

import re
from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
from etils import epath

from vos_jax.data.coco import box_corners, is_crowd
from vos_jax.data.folders import read_at, require_folders
from vos_jax.data.frames import read_image
from vos_jax.data.instances import Instances, InstanceVideo
from vos_jax.data.packed import data_folder
from vos_jax.data.rle import RLE, from_segmentations
from vos_jax.data.track_files import Annotations, VideoFacts, read_annotations

_PART = re.compile(r"(rest of )?(\d+)/(\d+)")


def open_youtube_vis(
    dir: str,
    split: str,
    annotations: str = "",
    images: str = "",
    part: str = "",
    truth: bool = True,
) -> list[InstanceVideo]:
    """The videos of one split by ascending id; no image is read here.

    annotations, images: the json file and the folder of the video folders where they lie elsewhere,
    absolute or relative to dir. part: see above. truth: False opens a split whose annotations are
    withheld, to write results for the data set's server: its videos have no instances.
    Raises FileNotFoundError for a missing file or folder; ValueError for a file of another form,
    withheld annotations, or a part that holds no video.
    """
    root = data_folder(dir)
    require_folders((root,), "YouTube-VIS has <dir>/<split>/JPEGImages and <dir>/<split>.json")
    file = read_annotations(annotation_file(root, split, annotations))
    if truth:
        file.require_truth()
    folder = root / (images or f"{split}/JPEGImages")
    require_folders((folder,), "it holds the folders of the videos; others are named by images")
    chosen = in_part(list(file.videos), part)
    if not chosen:
        raise ValueError(f"{file.path}: part {part!r} holds none of {len(file.videos)} videos")
    return [_video(file, file.videos[number], folder, truth) for number in chosen]


def in_part(ids: Sequence[int], part: str) -> list[int]:
    """The ids in a part: "" all, "m/n" those with id % n < m, "rest of m/n" the others."""
    if not part:
        return list(ids)
    words = _PART.fullmatch(part)
    if words is None or not 0 < int(words[2]) < int(words[3]):
        raise ValueError(
            f"youtube_vis: expected part such as '9/10' or 'rest of 9/10', got {part!r}"
        )
    return [i for i in ids if (i % int(words[3]) < int(words[2])) != bool(words[1])]


def annotation_file(root: epath.Path, split: str, given: str = "") -> epath.Path:
    """The json file of a split, or the one that is given; FileNotFoundError where there is none."""
    if given:
        return root / given
    names = (
        f"{split}.json",
        f"{split}/instances.json",
        f"annotations/instances_{split}.json",
        f"annotations/instances_{split}_sub.json",
    )
    found = [root / name for name in names if (root / name).is_file()]
    if not found:
        raise FileNotFoundError(
            f"{root}: expected the annotations of split {split!r} as one of {', '.join(names)};"
            " name another file with annotations"
        )
    return found[0]


def _video(file: Annotations, video: VideoFacts, folder: epath.Path, truth: bool) -> InstanceVideo:
    stems = [epath.Path(name).stem for name in video.file_names]
    entries = file.raw.get(video.id, []) if truth else []
    names = [f"{file.path}, annotation {entry.get('id')}" for entry in entries]
    return InstanceVideo(
        name=epath.Path(video.file_names[0]).parent.name or str(video.id),
        dataset="youtube_vis",
        frame_names=stems,
        load_frame=partial(read_at, read_image, [folder / name for name in video.file_names]),
        load_rles=partial(_rles, [e["segmentations"] for e in entries], video.size, names),
        describe=partial(_describe, file, video, entries),
        annotated=truth,
        video_id=video.id,
        category_ids=file.categories.ids,
    )


# Functions, not closures: worker processes are handed the videos.
def _rles(
    segmentations: Sequence[list], size: tuple[int, int], names: Sequence[str], t: int
) -> list[RLE | None]:
    where = [f"{name}, frame {t}" for name in names]
    return from_segmentations([track[t] for track in segmentations], size, where)


def _describe(file: Annotations, video: VideoFacts, entries: Sequence[Mapping]) -> Instances:
    ids = [entry.get("id") for entry in entries]
    numbers = all(isinstance(i, int) and abs(i) < 2**31 for i in ids)
    if not numbers or len(set(ids)) < len(ids):
        raise ValueError(f"{file.path}, video {video.id}: expected annotations of different ids")
    crowd = [is_crowd(entry, f"{file.path}, video {video.id}") for entry in entries]
    classes = [file.categories.class_of(entry["category_id"], file.path) for entry in entries]
    valid = np.array([_valid(entry) for entry in entries], bool).reshape(-1, video.length).T
    return Instances(
        ids=np.array(ids, np.int32),
        classes=np.array(classes, np.int32),
        crowd=np.array(crowd, bool),
        valid=valid,
        categories=file.categories.names,
        original_size=video.size,
        boxes=_boxes(entries, valid, file.path),
    )


def _valid(entry: Mapping) -> list[bool]:
    """Where a track has a mask: one of no area is none."""
    areas = entry.get("areas") or [None] * len(entry["segmentations"])
    pairs = zip(entry["segmentations"], areas, strict=True)
    return [mask is not None and (area is None or area > 0) for mask, area in pairs]


def _boxes(entries: Sequence[Mapping], valid: np.ndarray, path: str) -> np.ndarray | None:
    """float32 [T, N, 4], or None where a track lacks a box of a frame in which it has a mask."""
    boxes = np.zeros((*valid.shape, 4), np.float32)
    for n, entry in enumerate(entries):
        given = entry.get("bboxes") or [None] * len(valid)
        for t in np.flatnonzero(valid[:, n]):
            if given[t] is None:
                return None
            boxes[t, n] = box_corners(given[t], f"{path}, annotation {entry['id']}, frame {t}")
    return boxes
