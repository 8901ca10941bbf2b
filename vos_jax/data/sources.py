"""The data sets a config may name, and how they are opened.

    config.data.train.<name> = {kind, dir, split, weight, repeat, ...options of the kind}

The options of a kind are the arguments of its function in SOURCES; split may be left out where the
data set has none.

The share of a source in training is weight x repeat, divided by the sum over all sources: equal
shares unless told otherwise, whatever the number of videos (as FEELVOS mixes its data sets).
"""

import difflib
import inspect
import math
import numbers
import os
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from etils import epath

from vos_jax.data.clip import Video
from vos_jax.data.coco import open_coco
from vos_jax.data.davis import open_davis
from vos_jax.data.fbms import open_fbms
from vos_jax.data.images import open_images
from vos_jax.data.instances import InstanceVideo
from vos_jax.data.painted import PaintedVideo, painted
from vos_jax.data.polygons import open_polygons
from vos_jax.data.segtrack import open_segtrack
from vos_jax.data.synth_vos import open_synth_vos
from vos_jax.data.synthetic import NUM_FRAMES, synthetic_videos
from vos_jax.data.synthetic_instances import open_synthetic_instances
from vos_jax.data.synthetic_salient import salient_videos
from vos_jax.data.synthetic_vis import NUM_FRAMES as VIS_FRAMES
from vos_jax.data.synthetic_vis import synthetic_vis_videos
from vos_jax.data.tfds_davis import open_tfds_davis
from vos_jax.data.tfds_youtube_vis import open_tfds_youtube_vis
from vos_jax.data.youtube_objects import open_youtube_objects
from vos_jax.data.youtube_vis import open_youtube_vis
from vos_jax.data.youtube_vos import open_youtube_vos

ROOT_VARIABLE = "VOS_JAX_DATA_DIR"
MIXING = ("kind", "weight", "repeat")


def open_synthetic(
    split: str, dir: str = "", videos: int = 0, frames: int = NUM_FRAMES
) -> list[Video]:
    """synthetic-v1; videos: number of clips, 0 for the default. It needs no dir."""
    return synthetic_videos(split, videos or None, frames)


def open_synthetic_salient(
    split: str, dir: str = "", videos: int = 0, frames: int = NUM_FRAMES
) -> list[Video]:
    """synthetic-salient-v1; as `open_synthetic`."""
    return salient_videos(split, videos or None, frames)


def open_synthetic_vis(
    split: str, dir: str = "", videos: int = 0, frames: int = VIS_FRAMES
) -> list[InstanceVideo]:
    """synthetic-vis-v1; as `open_synthetic`."""
    return synthetic_vis_videos(split, videos or None, frames)


SOURCES = {
    "davis": open_davis,
    "youtube_vos": open_youtube_vos,
    "tfds_davis": open_tfds_davis,
    "fbms": open_fbms,
    "youtube_objects": open_youtube_objects,
    "segtrack": open_segtrack,
    "images": open_images,
    "synth_vos": open_synth_vos,
    "coco": painted(open_coco),
    "polygons": painted(open_polygons),
    "synthetic_instances": painted(open_synthetic_instances),
    "youtube_vis": painted(open_youtube_vis),
    "tfds_youtube_vis": painted(open_tfds_youtube_vis),
    "synthetic_vis": painted(open_synthetic_vis),
    "synthetic": open_synthetic,
    "synthetic_salient": open_synthetic_salient,
}
# they need no dir
EMBEDDED = ("synthetic", "synthetic_salient", "synthetic_instances", "synthetic_vis")


class Source(NamedTuple):
    """An opened data set and its unnormalised share of the training examples."""

    name: str
    videos: list[Video]
    weight: float = 1.0


def open_sources(data: Mapping, key: str) -> list[Source]:
    """Open every source of data[key], key being "train" or "eval".

    data: the `data` section of a config. A source's dir is taken relative to data["dir"], or to
    the environment variable VOS_JAX_DATA_DIR where that is empty; an empty one is that root.
    Raises ValueError for no source, an unknown kind (with the nearest one) or option, or a weight
    that is not positive; FileNotFoundError and ValueError of the sources.
    """
    entries = data.get(key) or {}
    if not len(entries):
        raise ValueError(
            f"config.data.{key} names no source; expected e.g."
            f" config.data.{key}.davis = {{kind: 'davis', dir: ..., split: ...}}"
        )
    return [
        _open(f"config.data.{key}.{name}", name, entry, data) for name, entry in entries.items()
    ]


def instance_videos(sources: list[Source]) -> list[InstanceVideo]:
    """All videos of the sources in order, with their own masks.

    Raises ValueError naming a source that has label maps alone.
    """
    for source in sources:
        if not all(isinstance(video, PaintedVideo) for video in source.videos):
            raise ValueError(
                f"source {source.name}: expected videos or images with instances and classes, such"
                " as of kind youtube_vis, coco, polygons or synthetic_vis, found label maps"
            )
    return [video.source for source in sources for video in source.videos]


def evaluation_videos(sources: list[Source]) -> list[Video]:
    """All videos of the sources in order, each checked to have an object to follow.

    Raises ValueError naming the mask of the first frame where that holds no object, or the video
    where its masks are withheld.
    """
    videos = [video for source in sources for video in source.videos]
    for video in videos:
        if len(video.ids) == 0 and not video.annotated.any():
            raise ValueError(
                f"{video.dataset}/{video.name}: no frame has a mask, so there is nothing to score;"
                " leave the split with withheld masks out, its results are scored by a server"
            )
        if len(video.ids) == 0:
            raise ValueError(
                f"{video.mask_files[0]}: the mask of the first frame holds no object, so there is"
                f" nothing to follow in {video.dataset}/{video.name}; leave it out of the split"
            )
    return videos


def _open(field: str, name: str, entry: Mapping, data: Mapping) -> Source:
    kind = entry.get("kind")
    if kind not in SOURCES:
        raise ValueError(f"{field}.kind: no source is called {kind!r}" + _nearest(kind, SOURCES))
    options = {option: entry[option] for option in entry if option not in MIXING}
    known = inspect.signature(SOURCES[kind]).parameters
    for option in options:
        if option not in known:
            raise ValueError(
                f"{field}.{option}: kind {kind!r} has no such option"
                + _nearest(option, [*MIXING, *known])
            )
    if "split" not in options and known["split"].default is inspect.Parameter.empty:
        raise ValueError(f"{field}.split is missing")
    if kind not in EMBEDDED:
        options["dir"] = _resolve(field, options.get("dir") or "", data.get("dir") or "")
    parts = (entry.get("weight", 1.0), entry.get("repeat", 1))
    numeric = all(isinstance(x, numbers.Real) for x in parts)
    weight = math.prod(map(float, parts)) if numeric else math.nan
    if not 0 < weight < math.inf:
        raise ValueError(
            f"{field}: weight x repeat must be a number above 0, got {parts[0]!r} x {parts[1]!r}"
        )
    return Source(name, SOURCES[kind](**options), weight)


def _nearest(word: object, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(str(word), known, 1, 0.3)
    return f", expected one of {', '.join(known)}" + (
        f"; did you mean {near[0]!r}?" if near else ""
    )


def _resolve(field: str, directory: str, root: str) -> str:
    root = os.path.expanduser(root or os.environ.get(ROOT_VARIABLE, ""))
    directory = os.path.expanduser(directory)
    if directory and (epath.Path(directory).is_absolute() or "://" in directory):
        return directory
    if not directory and not root:
        raise ValueError(
            f"{field}.dir is empty; set it, or config.data.dir, or the environment variable"
            f" {ROOT_VARIABLE} to the folder of the data sets"
        )
    return str(epath.Path(root) / directory) if root else directory
