"""What is compared: a system under a config, and the floors beside it.

A method is a function of a video that returns something with `step(frame, labels)`; one that
returns an `Unguided` is shown no annotation. A `Together` takes several videos at once.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from vos_jax.data.clip import Video
from vos_jax.inference.lockstep import LockstepSegmenter, local_mesh
from vos_jax.inference.setup import Inference
from vos_jax.metrics.floors import Constant, CopyMask, NearestColour
from vos_jax.metrics.protocols import Protocol
from vos_jax.systems.propagation import Propagation
from vos_jax.train.initial import initial_variables

SOURCES = Path(__file__).parents[1]

Method = Callable[[Video], Any]
Answer = Callable[[], np.ndarray]  # waits for a label map


@dataclass(frozen=True)
class Unguided:
    """A method at work that segments every frame of a video by itself.

    stepper: has `step(frame)`, which returns the label map.
    """

    stepper: Any


@dataclass(frozen=True)
class Together:
    """A method that segments up to `width` videos in lockstep; called, it begins with them.

    What it returns has `dispatch(frames, labels)`, an entry of both for each video, which answers
    with a function for each that waits for the label map. A frame is None once a video is over. The
    videos are those of a batch of `plan.batches`. guided: whether it is shown masks.
    """

    begin: Callable[[Sequence[Video]], Any]
    width: int = 1
    guided: bool = True

    def __call__(self, videos: Sequence[Video]) -> Any:
        return self.begin(videos)


@dataclass(frozen=True)
class Floor:
    """A method, and whatever its label maps depend on besides the video, as text."""

    method: Method | Together
    identity: str


class _Alone:
    """One video at a time, in the form of several."""

    def __init__(self, segmenter: Any):
        self._segmenter = segmenter

    def dispatch(self, frames: Sequence[Any], labels: Sequence[Any]) -> list[Answer]:
        return [self._segmenter.dispatch(frames[0], labels[0])]


def segmenters(
    inference: Inference, variables: Mapping[str, Any], unguided: bool = False
) -> Together:
    """The method that segments videos with a system.

    As many at once as this process has devices, one on each; one at a time where the system has a
    mesh of its own or goes without masks, or where a field refines its results on the host. The
    variables may be on the host; they go to the devices for the time of a batch. unguided: no mask
    is given to it, and it sees the reference frames that the system asks for.
    """

    def alone(videos: Sequence[Video]) -> _Alone:
        (video,) = videos
        if not unguided:
            ids = [int(i) for i in video.ids]
            return _Alone(inference.segmenter(jax.device_put(variables), ids))
        segmenter = inference.segmenter(jax.device_put(variables))
        references = inference.reference_frames(len(video))
        if references:
            segmenter.observe([video.frame(t) for t in references])
        return _Alone(segmenter)

    def lockstep(videos: Sequence[Video]) -> LockstepSegmenter:
        ids = [[int(i) for i in video.ids] for video in videos]
        return LockstepSegmenter(inference.model, variables, ids, slots=inference.slots, mesh=mesh)

    mesh = local_mesh()
    alone_only = unguided or inference.model.mesh is not None or inference.crf is not None
    if alone_only or mesh.size == 1:
        return Together(alone, guided=not unguided)
    return Together(lockstep, width=mesh.size)


def goes_without_masks(inference: Inference, protocol: Protocol) -> bool:
    """Whether a system is shown no masks under a protocol.

    One that may have them goes without where ids are matched and not given.
    """
    guidance = inference.model.traits.guidance
    return guidance == "none" or guidance == "either" and protocol.proposals > 0


def _exact(method: Method) -> Callable[[ConfigDict], Floor]:
    """A floor that depends on nothing but its code."""
    return lambda config: Floor(method, _digest_of("metrics"))


def _propagation(config: ConfigDict) -> Floor:
    """The floor that propagates labels with the untrained features of config.init.backbone."""
    if not config.init.backbone:
        raise ValueError(
            "config.eval.floors has 'propagation', which needs config.init.backbone: a folder "
            "written by vos_jax.convert"
        )
    shared = ("backbone", "width", "window", "short_side")  # not every system has a window
    fields = {name: config.model[name] for name in shared if name in config.model}
    model = Propagation(output_stride=8, **fields)
    variables = initial_variables(model, {**config.init, "model": ""}, config.seed)
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(jax.device_get(variables)):
        digest.update(np.ascontiguousarray(leaf).tobytes())
    code = _digest_of("metrics", "inference", "nn", "ops", "systems")
    identity = f"{code} {model!r} {digest.hexdigest()} {jax.default_backend()}"
    return Floor(segmenters(Inference(model), variables), identity)


def _digest_of(*packages: str) -> str:
    """Of the sources of these packages of vos_jax: label maps and scores may change with them."""
    digest = hashlib.sha256()
    for package in packages:
        for file in sorted((SOURCES / package).rglob("*.py")):
            digest.update(file.read_bytes())
    return digest.hexdigest()


# name -> function of a config that returns the floor; the last two are for systems without masks
FLOORS: Mapping[str, Callable[[ConfigDict], Floor]] = {
    "copy": _exact(lambda video: CopyMask()),
    "rgb": _exact(lambda video: NearestColour()),
    "propagation": _propagation,
    "background": _exact(lambda video: Unguided(Constant(0))),
    "whole_frame": _exact(lambda video: Unguided(Constant(1))),
}
