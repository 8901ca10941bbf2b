"""Instances of a video, frame by frame: detect, give identities, collect tracks.

    segmenter = InstanceSegmenter(model, variables)
    for frame in frames:
        segmenter.step(frame)
    segmenter.finish()
    tracks = segmenter.tracks.tracks()

The network is compiled once for a canvas, whatever the frames' own size and however many objects
there are; drawing the masks is compiled for each frame size. Masks are kept as run lengths.
"""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np

from vos_jax.data.rle import encode
from vos_jax.inference.linking.base import Found, Linked, Linker
from vos_jax.inference.tracks import Tracks
from vos_jax.systems.vis_base import Detections, VISModel


@dataclass(frozen=True)
class Detected:
    """What the network says of a frame of `size` (H, W), on the device."""

    model: VISModel
    features: Any
    detections: Detections
    size: tuple[int, int]

    @functools.cached_property
    def found(self) -> Found:
        """On the host."""
        return found_of(
            self.model, self.detections, self.size, np.asarray(self.detections.valid[0])
        )


class Detector:
    """Finds the objects of frames, each by itself."""

    def __init__(self, model: VISModel, variables: Mapping[str, Any]):
        self._model, self._variables = model, variables
        self._detect = compiled(model).detect

    def __call__(self, frame: np.ndarray) -> Detected:
        """frame: uint8 [H, W, 3] RGB; ValueError for anything else."""
        frame = np.asarray(frame)
        if frame.ndim != 3 or frame.shape[-1] != 3 or frame.dtype != np.uint8:
            raise ValueError(
                f"expected a frame uint8 [H, W, 3] in RGB, found {frame.dtype} {frame.shape}"
            )
        inputs = jax.tree.map(lambda x: np.asarray(x)[None], self._model.preprocess(frame))
        return Detected(self._model, *self._detect(self._variables, inputs), frame.shape[:2])


class ModelLinker:
    """The system's own rule, on the device; what it decides lags behind by the model's `delay`."""

    def __init__(self, model: VISModel, variables: Mapping[str, Any]):
        self._model, self._variables = model, variables
        self._programs = compiled(model)
        self._memory: Any = None
        self._undecided: list[tuple[int, int]] = []  # sizes of frames
        self._last: Detected | None = None
        self._linked = 0  # frames, those after the video too

    def step(self, detected: Detected) -> list[Linked]:
        """The frames that are decided now."""
        if self._memory is None:
            self._memory = self._programs.start(self._variables, detected.features)
        self._last = detected
        self._undecided.append(detected.size)
        return self._link(real=True)

    def finish(self) -> list[Linked]:
        """The frames that were not decided yet."""
        if self._last is None:
            return []
        return [linked for _ in range(self._model.delay) for linked in self._link(real=False)]

    def _link(self, real: bool) -> list[Linked]:
        frame = (self._last.features, self._last.detections, np.array([real]))
        self._memory, linked = self._programs.link(self._variables, self._memory, *frame)
        self._linked += 1
        if self._linked <= self._model.delay:  # of a frame before the video
            return []
        self._decided(linked)
        ids = np.asarray(linked.ids)[0]
        kept = np.asarray(linked.detections.valid[0]) & (ids >= 0)
        found = found_of(self._model, linked.detections, self._undecided.pop(0), kept)
        return [Linked(found, ids[kept])]

    def _decided(self, linked: Any) -> None:
        """What `link` gave of a frame of the video, for linkers that make more of it."""


def linked_by(linker: Linker | ModelLinker, frame: np.ndarray, detected: Detected) -> list[Linked]:
    """The frames that a linker decides when it sees the next one."""
    if isinstance(linker, ModelLinker):
        return linker.step(detected)
    return linker.step(frame, detected.found)


class InstanceSegmenter:
    """Holds one video.

    linker: None, the model's own rule; else a fresh one of vos_jax.inference.linking. aggregate:
    how a track's score and class come about, see `Tracks`.

    Attributes:
        tracks: those of the frames that are decided.
    """

    def __init__(
        self,
        model: VISModel,
        variables: Mapping[str, Any],
        linker: Linker | None = None,
        aggregate: str = "majority",
    ):
        self._detector = Detector(model, variables)
        self._linker = linker or ModelLinker(model, variables)
        self.tracks = Tracks(aggregate)

    def step(self, frame: np.ndarray) -> list[Linked]:
        """The next frame: what is found, with identities, in the frames that are decided now."""
        linked = linked_by(self._linker, frame, self._detector(frame))
        self.tracks.add(linked)
        return linked

    def finish(self) -> list[Linked]:
        """After the last frame: the frames that were not decided yet."""
        linked = self._linker.finish()
        self.tracks.add(linked)
        return linked


def found_of(
    model: VISModel, detections: Detections, size: tuple[int, int], kept: np.ndarray
) -> Found:
    """Detections of a frame of `size` (H, W) on the host, with masks and continuous boxes.

    kept: bool [D].
    """
    masks = np.asarray(compiled(model).masks(detections, size=size))[kept]
    boxes, scores, classes, features, probabilities = (
        np.asarray(getattr(detections, name)[0])[kept]
        for name in ("boxes", "scores", "classes", "embeddings", "probabilities")
    )
    boxes = boxes + np.float32([0, 0, 1, 1]) * model.convention.extent
    rles = encode(masks) if len(masks) else []
    return Found(boxes, scores, 1 + classes, rles, size, features, probabilities)


class Programs(NamedTuple):
    """The jitted functions of a model."""

    detect: Callable[..., tuple[Any, Detections]]
    start: Callable[..., Any]
    link: Callable[..., tuple[Any, Any]]
    masks: Callable[..., jax.Array]


@functools.lru_cache(maxsize=8)
def compiled(model: VISModel) -> Programs:
    """Those of a model, shared by all segmenters of equal ones."""

    def detect(variables, inputs):
        features = model.apply(variables, inputs, method=model.encode)
        return features, model.apply(variables, features, method=model.detect)

    def start(variables, features):
        return model.apply(variables, features, method=model.start)

    def link(variables, memory, *frame):
        return model.apply(variables, memory, *frame, method=model.link)

    def masks(detections, size):
        return model.apply({}, detections, size, method=model.masks)[0]

    return Programs(
        jax.jit(detect),
        jax.jit(start),
        jax.jit(link, donate_argnums=1),
        jax.jit(masks, static_argnames="size"),
    )
