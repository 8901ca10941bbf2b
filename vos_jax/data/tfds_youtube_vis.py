"""YouTube-VIS 2019 as prepared by TensorFlow Datasets (builder `youtube_vis`).

A record of that builder is a whole video of some 10 MB, so only what lies where is kept: to open a
split all of it is read once, and a frame later reads the record of its video, the last few of which
are remembered. Configs whose name ends in `full` also hold the frames between the annotated ones;
of those, the frames in which something is annotated count. Boxes, masks and classes are those of
the official files; ids of videos and tracks are not kept there and are numbered from 1 here.
TensorFlow is imported on use.
"""

import struct
from collections.abc import Iterator, Mapping
from functools import lru_cache, partial
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from vos_jax.data.frames import decode_image
from vos_jax.data.instances import Instances, InstanceVideo
from vos_jax.data.masks import decode_mask
from vos_jax.data.rle import RLE, encode
from vos_jax.data.tfds_folder import prepared_builder, require_split

SPLITS = {"train": "train", "valid": "validation", "validation": "validation", "test": "test"}
LABELLED = "only_frames_with_labels"
CONFIGS = (LABELLED, f"480_640_{LABELLED}", "full", "480_640_full")
_FACTS = {"metadata": True, "tracks": {"bboxes", "category", "is_crowd", "frames"}}
_HEADER, _FOOTER = 12, 4  # bytes around a record: its length and checksums


class _Record(NamedTuple):
    """Where the record of a video lies, and the folder of the prepared data set."""

    folder: str
    path: str
    offset: int
    length: int


def open_tfds_youtube_vis(
    dir: str, split: str, config: str = LABELLED, truth: bool = True
) -> list[InstanceVideo]:
    """The videos of one split, sorted by name.

    dir: a TFDS data directory (holding youtube_vis/<config>/1.0.0), or the version folder itself.
    truth: False opens a split whose annotations are withheld, as in `open_youtube_vis`.
    Raises FileNotFoundError where no prepared data set is found; ValueError for a bad option, files
    other than TFRecord, or withheld annotations.
    """
    if split not in SPLITS:
        raise ValueError(f"tfds_youtube_vis: expected split one of {sorted(SPLITS)}, got {split!r}")
    if config not in CONFIGS:
        raise ValueError(f"tfds_youtube_vis: expected config one of {CONFIGS}, got {config!r}")
    builder = prepared_builder(dir, f"youtube_vis/{config}")
    if builder is None:
        raise FileNotFoundError(
            f"{epath.Path(dir) / 'youtube_vis' / config}: no prepared data set; it takes Apache"
            f" Beam: `tfds build youtube_vis/{config} --data_dir {dir}`"
        )
    require_split(builder, SPLITS[split])
    folder = str(builder.data_dir)
    records = [
        _Record(folder, str(path), *place)
        for path in builder.info.splits[SPLITS[split]].filepaths
        for place in _places(str(path))
    ]
    facts = [(_parsed(record, facts_only=True), record) for record in records]
    facts.sort(key=lambda pair: pair[0]["metadata"]["video_name"])
    if truth and not any(len(found["tracks"]["category"]) for found, _ in facts):
        raise ValueError(
            f"{folder}: split {split!r} has no annotations; those of valid and test are withheld,"
            " and their results are scored by the data set's server"
        )
    return [_video(found, record, n, truth) for n, (found, record) in enumerate(facts, 1)]


def _places(path: str) -> Iterator[tuple[int, int]]:
    """Offset and length of every record of a TFRecord file; ValueError for another kind."""
    size = epath.Path(path).stat().length
    with epath.Path(path).open("rb") as file:
        start = 0
        while start < size:
            file.seek(start)
            (length,) = struct.unpack("<Q", file.read(8).ljust(8, b"\0"))
            if start + _HEADER + length + _FOOTER > size:
                raise ValueError(
                    f"{path}: expected a TFRecord file, found another or a part of one"
                )
            yield start + _HEADER, length
            start += _HEADER + length + _FOOTER


@lru_cache(maxsize=8)
def _features(folder: str, facts_only: bool):
    """How the records of a prepared data set are decoded, and with what is left encoded."""
    import tensorflow_datasets as tfds

    features = tfds.builder_from_directory(folder).info.features
    if facts_only:
        return tfds.decode.PartialDecoding(_FACTS).extract_features(features), None
    skip = tfds.decode.SkipDecoding()
    return features, {"video": skip, "tracks": {"segmentations": skip}}


def _parsed(record: _Record, facts_only: bool) -> dict[str, Any]:
    import tensorflow_datasets as tfds

    features, decoders = _features(record.folder, facts_only)
    with epath.Path(record.path).open("rb") as file:
        file.seek(record.offset)
        data = file.read(record.length)
    return tfds.as_numpy(features.deserialize_example(data, decoders=decoders))


def _video(found: Mapping, record: _Record, number: int, truth: bool) -> InstanceVideo:
    name = found["metadata"]["video_name"].decode()
    tracks = found["tracks"]
    frames = [list(track) for track in tracks["frames"].to_list()] if truth else []
    length = int(found["metadata"]["num_frames"])
    kept = list(range(length))
    if LABELLED not in record.folder and truth:
        kept = sorted(set().union(*frames))
    size = (int(found["metadata"]["height"]), int(found["metadata"]["width"]))
    instances = _instances(tracks, frames, kept, size, _categories(record.folder))
    return InstanceVideo(
        name=name,
        dataset="youtube_vis",
        frame_names=[f"{t:05d}" for t in kept],
        load_frame=partial(_frame, record, name, kept),
        load_rles=partial(_rles, record, name, kept, frames, size),
        describe=partial(_itself, instances),
        annotated=truth,
        video_id=number,
    )


@lru_cache(maxsize=8)
def _categories(folder: str) -> tuple[str, ...]:
    return tuple(_features(folder, True)[0]["tracks"].feature["category"].names)


def _instances(
    tracks: Mapping,
    frames: list[list[int]],
    kept: list[int],
    size: tuple[int, int],
    categories: tuple[str, ...],
) -> Instances:
    count, height, width = len(frames), *size
    valid = np.zeros((len(kept), count), bool)
    boxes = np.zeros((len(kept), count, 4), np.float32)
    for n, (times, relative) in enumerate(zip(frames, tracks["bboxes"].to_list(), strict=False)):
        for t, (top, left, bottom, right) in zip(times, relative, strict=True):
            valid[kept.index(t), n] = True
            boxes[kept.index(t), n] = left * width, top * height, right * width, bottom * height
    return Instances(
        ids=np.arange(1, count + 1, dtype=np.int32),
        classes=np.asarray(tracks["category"][:count], np.int32) + 1,
        crowd=np.asarray(tracks["is_crowd"][:count], bool),
        valid=valid,
        categories=list(categories),
        original_size=size,
        boxes=boxes,
    )


# Functions, not closures: worker processes are handed the videos.
def _itself(instances: Instances) -> Instances:
    return instances


@lru_cache(maxsize=4)
def _pixels(record: _Record) -> tuple[list[bytes], list[list[bytes]]]:
    """The encoded frames of a video, and the encoded masks of each track."""
    found = _parsed(record, facts_only=False)
    return list(found["video"]), found["tracks"]["segmentations"].to_list()


def _frame(record: _Record, name: str, kept: list[int], t: int) -> np.ndarray:
    return decode_image(bytes(_pixels(record)[0][kept[t]]), f"youtube_vis/{name}, frame {kept[t]}")


def _rles(
    record: _Record,
    name: str,
    kept: list[int],
    frames: list[list[int]],
    size: tuple[int, int],
    t: int,
) -> list[RLE | None]:
    rles = []
    for n, (times, masks) in enumerate(zip(frames, _pixels(record)[1], strict=True)):
        if kept[t] not in times:
            rles.append(None)
            continue
        where = f"youtube_vis/{name}, track {n}, frame {kept[t]}"
        mask = decode_mask(bytes(masks[times.index(kept[t])]), where, size, binary=False)
        rles.extend(encode(mask[None] > 0))
    return rles
