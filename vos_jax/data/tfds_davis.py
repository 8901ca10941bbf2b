"""DAVIS 2017 as prepared by TensorFlow Datasets (builder `davis`, configs 480p, full_resolution).

A record of that builder is a whole video. Its images are taken without decoding, so a frame is
decoded only when a clip asks for it; the encoded bytes of the split stay in host memory (about
0.3 GB for the 60 training videos at 480p), in that of every worker process, too. TensorFlow is
imported on use.
"""

from collections.abc import Callable
from functools import partial

import numpy as np
from etils import epath

from vos_jax.data.clip import Objects, Video, first_frame_objects
from vos_jax.data.frames import decode_image
from vos_jax.data.masks import decode_mask
from vos_jax.data.tfds_folder import prepared_builder, require_split

SPLITS = {"train": "train", "val": "validation", "validation": "validation"}
CONFIGS = ("480p", "full_resolution")


def open_tfds_davis(
    dir: str, split: str, resolution: str = "480p", download: bool = False
) -> list[Video]:
    """The videos of one split, with the objects, given and scored frames of DAVIS 2017.

    dir: a TFDS data directory (holding davis/480p/2.1.0), or the version folder itself.
    split: "train", "val" or "validation". download: prepare the data set if it is not there.
    Raises FileNotFoundError where no prepared data set is found, ValueError for a bad option.
    """
    if split not in SPLITS:
        raise ValueError(f"tfds_davis: expected split one of {sorted(SPLITS)}, got {split!r}")
    if resolution not in CONFIGS:
        raise ValueError(f"tfds_davis: expected resolution one of {CONFIGS}, got {resolution!r}")
    import tensorflow_datasets as tfds

    builder = _builder(dir, resolution, download)
    require_split(builder, SPLITS[split])
    skip = tfds.decode.SkipDecoding()
    data = builder.as_dataset(
        split=SPLITS[split], decoders={"video": {"frames": skip, "segmentations": skip}}
    )
    videos = [_video(record) for record in tfds.as_numpy(data)]
    if not videos:
        raise ValueError(f"{builder.data_dir}: split {SPLITS[split]!r} is empty")
    return sorted(videos, key=lambda video: video.name)


def _builder(dir: str, resolution: str, download: bool):
    import tensorflow_datasets as tfds

    builder = prepared_builder(dir, f"davis/{resolution}")
    if builder is not None:
        return builder
    if not download:
        raise FileNotFoundError(
            f"{epath.Path(dir) / 'davis' / resolution}: no prepared data set; run"
            f" `tfds build davis/{resolution} --data_dir {dir}` or set download=True"
        )
    builder = tfds.builder(f"davis/{resolution}", data_dir=dir)
    builder.download_and_prepare()
    return builder


def _video(record: dict) -> Video:
    name = record["metadata"]["video_name"].decode()
    frames = [bytes(data) for data in record["video"]["frames"]]
    masks = [bytes(data) for data in record["video"]["segmentations"]]
    load_mask = partial(_mask, name, masks)
    return Video(
        name=name,
        dataset="davis2017",
        frame_names=[f"{t:05d}" for t in range(len(frames))],
        mask_files=[f"davis/{name}, mask {t}" for t in range(len(frames))],
        load_frame=partial(_frame, name, frames),
        load_mask=load_mask,
        describe=partial(_objects, load_mask, len(frames)),
    )


# Functions, not closures: worker processes are handed the videos.
def _frame(name: str, frames: list[bytes], t: int) -> np.ndarray:
    return decode_image(frames[t], f"davis/{name}, frame {t}")


def _mask(name: str, masks: list[bytes], t: int) -> np.ndarray:
    return decode_mask(masks[t], f"davis/{name}, mask {t}", binary=False)


def _objects(load_mask: Callable[[int], np.ndarray], num_frames: int) -> Objects:
    return first_frame_objects(load_mask(0), num_frames)
