"""Checks of annotation files, YouTube-VIS, COCO and polygons: their readers say what is wrong."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
from etils import epath

from vos_jax.data.coco import open_coco
from vos_jax.data.folders import subfolders
from vos_jax.data.instances import InstanceVideo
from vos_jax.data.polygons import open_polygons
from vos_jax.data.rle import areas
from vos_jax.data.youtube_vis import annotation_file, open_youtube_vis
from vos_jax.data_checks.findings import Findings
from vos_jax.data_checks.sequences import THREADS
from vos_jax.notes import progress_bar

PREFIX = "instances_"  # of annotation files in the folder annotations


def splits_with_tables(root: epath.Path) -> tuple[list[str], list[str]]:
    """The splits of a root that are those of YouTube-VIS, and those of COCO, by their folders."""
    files = (root / "annotations").glob(f"{PREFIX}*.json")
    named = {file.stem.removeprefix(PREFIX).removesuffix("_sub") for file in files}
    videos = [f.name for f in subfolders(root) if (f / "JPEGImages").is_dir()]
    return (
        [split for split in videos if _has_file(root, split)],
        [f.name for f in subfolders(root) if f.name in named and f.name not in videos],
    )


def check_youtube_vis(root: epath.Path, splits: list[str], found: Findings) -> None:
    """Every video of the splits, its frames and masks."""
    found.layout = "YouTube-VIS"
    for split in splits:
        try:
            videos = open_youtube_vis(root, split)
        except (ValueError, OSError) as error:  # withheld annotations, too
            found.refused(error)
            continue
        _check_videos(found, split, videos)


def check_coco(root: epath.Path, splits: list[str], found: Findings) -> None:
    """Every image of the splits and its masks."""
    found.layout = "COCO"
    for split in splits:
        try:
            videos = open_coco(root, split)
        except (ValueError, OSError) as error:
            found.refused(error)
            continue
        _check_videos(found, split, videos)


def check_polygons(root: epath.Path, found: Findings) -> None:
    """Every image of every split and its outlines."""
    found.layout = "images with polygons"
    splits = [folder.name for folder in subfolders(root / "labels")] or [""]
    for split in splits:
        try:
            videos = open_polygons(root, split)
        except (ValueError, OSError) as error:
            found.refused(error)
            continue
        _check_videos(found, split or "all", videos)


def _check_videos(found: Findings, split: str, videos: list[InstanceVideo]) -> None:
    found.splits[split] = len(videos)
    with ThreadPoolExecutor(THREADS) as pool:
        for video in progress_bar(videos, desc=f"check {split}", unit="sequence"):
            _check_video(found, video, pool)


def _check_video(found: Findings, video: InstanceVideo, pool: ThreadPoolExecutor) -> None:
    found.frames += len(video)
    try:
        count = len(video.ids)
    except (ValueError, OSError) as error:
        found.objects.append(0)
        found.refused(error)
        return
    found.objects.append(count)
    found.sizes[tuple(video.original_size)] += 1
    seen = np.zeros(count, bool)
    for result in pool.map(partial(_frame, video), range(len(video))):
        faults, there = result
        for fault in faults:
            found.refused(fault)
        found.masks += int(there.sum())
        seen |= there if len(there) else False
    empty = np.flatnonzero(~seen)
    if len(empty) and not found.problems:
        found.problem(
            "object without mask",
            f"{video.name}: annotation {video.ids[empty[0]]} has no pixel in any frame; take it"
            " out",
            len(empty),
        )


def _frame(video: InstanceVideo, t: int) -> tuple[list[Exception], np.ndarray]:
    """What is wrong in a frame and its masks, and the instances that have pixels there."""
    faults, there = [], np.zeros(len(video.ids), bool)
    try:
        size = video.frame(t).shape[:2]
        if size != tuple(video.original_size):
            height, width = video.original_size
            raise ValueError(
                f"{video.name}: frame {video.frame_names[t]} is {size[0]}x{size[1]} (height x"
                f" width), its annotation is for {height}x{width}; take the frames that were"
                " annotated, of that size"
            )
    except (ValueError, OSError) as error:
        faults.append(error)
    try:
        there = areas(video.rles(t)) > 0
    except (ValueError, OSError) as error:
        faults.append(error)
    return faults, there


def _has_file(root: epath.Path, split: str) -> bool:
    try:
        return annotation_file(root, split).is_file()
    except FileNotFoundError:
        return False
