"""Cases that need two devices; test_lockstep runs this file once with fake ones.

Of two systems, or with VOS_JAX_MESHES=all of every one that is given masks.

Prints one JSON object: system -> the largest share of a frame's pixels whose labels differ between
two videos in lockstep and each of them alone.
"""

import json
import os

import jax
from jax.sharding import AxisType

from tests.squares import moving_squares
from tests.tiny import quick_compilation, tiny_system, unload_programs
from vos_jax.inference.lockstep import AXIS, LockstepSegmenter
from vos_jax.inference.streaming import VideoSegmenter
from vos_jax.metrics.floors import given_labels
from vos_jax.systems.table import systems_of


def steps(video, length):
    """(frame, given labels) of a video, followed by nothing up to `length`."""
    for t in range(length):
        if t >= len(video):
            yield None, None
        else:
            yield video.frame(t), given_labels(video.mask(t), video.ids, video.given[t])


def difference(system: str, mesh) -> float:
    """Two videos, of 4 and 6 frames, whose second object comes at frame 2."""
    model, variables = tiny_system(system)
    videos = [moving_squares("a", (1, 2), 4, appear=(0, 2), enlarged=2)]
    videos.append(moving_squares("b", (9, 4), 6, appear=(0, 2), enlarged=2))
    together = LockstepSegmenter(model, variables, [[1, 2], [9, 4]], slots=0, mesh=mesh)
    apart = [VideoSegmenter(model, variables, ids=video.ids) for video in videos]
    worst = 0.0
    for step in zip(*(steps(video, 6) for video in videos), strict=True):
        frames, labels = zip(*step, strict=True)
        found = together.dispatch(frames, labels)
        for segmenter, frame, given, answer in zip(apart, frames, labels, found, strict=True):
            if frame is not None:
                worst = max(worst, float((segmenter.step(frame, given) != answer()).mean()))
    return worst


def main() -> None:
    mesh = jax.make_mesh((2,), (AXIS,), (AxisType.Auto,), devices=jax.devices()[:2])
    results = {}
    guided = [
        name for name, entry in systems_of("vos").items() if entry.model().traits.guidance != "none"
    ]
    for system in guided if os.environ.get("VOS_JAX_MESHES") == "all" else ("stm", "cfbi"):
        with quick_compilation():
            results[system] = difference(system, mesh)
        unload_programs()
    print(json.dumps(results))


if __name__ == "__main__":
    main()
