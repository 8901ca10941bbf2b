"""Instances as label maps: what systems that segment by labels train on (host side, numpy)."""

from collections.abc import Callable
from functools import partial, wraps

import numpy as np

from vos_jax.data.clip import VOID, Objects, Video
from vos_jax.data.instances import InstanceVideo, require_truth


class PaintedVideo(Video):
    """An instance video whose masks are painted over each other, the largest first.

    The k-th instance that is no crowd has the id k, up to 254 of them. Crowds are void, below all
    objects. Every object is given in the first frame that shows it, and scored in all. `source` is
    the video with its own masks.
    """

    def __init__(self, source: InstanceVideo):
        self.source = source
        super().__init__(
            name=source.name,
            dataset=source.dataset,
            frame_names=source.frame_names,
            mask_files=[f"{source.dataset}/{source.name}/{x}" for x in source.frame_names],
            load_frame=source.frame,
            load_mask=partial(paint, source),
            describe=partial(_objects, source),
        )


def painted(open_videos: Callable[..., list[InstanceVideo]]) -> Callable[..., list[PaintedVideo]]:
    """A function that opens instance videos, as one that opens them painted."""

    @wraps(open_videos)
    def opened(*args, **options):
        videos = open_videos(*args, **options)
        require_truth(videos)
        return [PaintedVideo(video) for video in videos]

    return opened


def paint(video: InstanceVideo, t: int) -> np.ndarray:
    """The labels uint8 [H, W] of a frame; of equally large instances the later one is on top."""
    masks, crowd = video.masks(t), video.crowd
    labels = np.zeros(video.original_size, np.uint8)
    labels[masks[crowd].any(axis=0)] = VOID
    objects = masks[~crowd][: VOID - 1]
    for k in np.argsort(-objects.sum(axis=(1, 2)), kind="stable"):
        labels[objects[k]] = k + 1
    return labels


def _objects(video: InstanceVideo) -> Objects:
    chosen = np.flatnonzero(~video.crowd)[: VOID - 1]
    valid = video.valid[:, chosen]
    first = valid & (np.cumsum(valid, axis=0) == 1)
    names = [video.categories[k - 1] for k in video.classes[chosen]]
    ids = np.arange(1, len(chosen) + 1, dtype=np.int32)
    return Objects(ids, first, np.ones_like(valid), names, video.original_size)
