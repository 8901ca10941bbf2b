"""Synthetic images with instances: frames of synthetic-v1 whose objects have a class, their kind.

Image k of a split is a function of (split, k) alone: frame 3 j of clip i with k = j * clips + i, so
that the first images are of different clips. Train and test share no clip.
"""

from functools import partial

import numpy as np

from vos_jax.data.instances import Instances, InstanceVideo
from vos_jax.data.rle import RLE, encode
from vos_jax.data.synthetic import KINDS, NUM_CLIPS, SPLITS, kinds, render

NAME = "synthetic-instances"
FRAMES_APART = 3
IMAGES_OF_A_CLIP = 4


def open_synthetic_instances(split: str, dir: str = "", images: int = 0) -> list[InstanceVideo]:
    """The images of the "train" or "test" split, as many as `images` says (0: all); no dir needed.

    Raises ValueError for an unknown split or more images than there are.
    """
    if split not in SPLITS:
        raise ValueError(f"{NAME} has no split {split!r}; expected one of {sorted(SPLITS)}")
    most = IMAGES_OF_A_CLIP * NUM_CLIPS[split]
    if not 0 <= images <= most:
        raise ValueError(f"{NAME}: expected 0 to {most} images of {split}, found {images}")
    return [_image(split, k) for k in range(images or most)]


def _image(split: str, number: int) -> InstanceVideo:
    turn, clip = divmod(number, NUM_CLIPS[split])
    place = (split, clip, FRAMES_APART * turn)
    return InstanceVideo(
        name=f"{split}-{number:04d}",
        dataset=NAME,
        frame_names=["00000"],
        load_frame=partial(_frame, place),
        load_rles=partial(_rles, place),
        describe=partial(_instances, place),
        video_id=number + 1,
    )


def _frame(place: tuple[str, int, int], t: int) -> np.ndarray:
    return render(*place)[0]


def _masks(place: tuple[str, int, int]) -> np.ndarray:
    """What is to be seen of each object, bool [N, H, W]."""
    labels = render(*place)[1]
    return labels == np.arange(1, len(kinds(*place[:2])) + 1)[:, None, None]


def _rles(place: tuple[str, int, int], t: int) -> list[RLE]:
    return encode(_masks(place))


def _instances(place: tuple[str, int, int]) -> Instances:
    names = kinds(*place[:2])
    masks = _masks(place)
    return Instances(
        ids=np.arange(1, len(names) + 1, dtype=np.int32),
        classes=np.array([KINDS.index(name) + 1 for name in names], np.int32),
        crowd=np.zeros(len(names), bool),
        valid=masks.any(axis=(1, 2))[None],
        categories=list(KINDS),
        original_size=masks.shape[1:],
    )
