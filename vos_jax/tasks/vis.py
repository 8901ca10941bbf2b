"""Video instance segmentation: objects of known classes are found, and followed through a video."""

import json
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import jax.numpy as jnp
import numpy as np
from absl import flags
from ml_collections import ConfigDict

from vos_jax.data.example import ExampleSequence
from vos_jax.data.frames import FrameSource
from vos_jax.data.instance_examples import InstanceExamples
from vos_jax.data.stages import training_examples
from vos_jax.evaluating.tracks import FPS, TrackEvaluation
from vos_jax.files import write_whole
from vos_jax.inference.instances import InstanceSegmenter
from vos_jax.inference.linking.base import Linked
from vos_jax.inference.overlay import OverlayWriter, marks_of
from vos_jax.inference.vis_setup import build_vis_inference
from vos_jax.inference.writers import FrameResult, Writer, new_file
from vos_jax.notes import progress_bar
from vos_jax.systems.vis_base import VISModel
from vos_jax.tasks.base import Task
from vos_jax.train.step import Objective

RESULTS = "results.json"
FOR_LABELS = ("mask", "probabilities", "maps", "evidence")  # flags of systems with label maps


def _examples(config: ConfigDict) -> ExampleSequence:
    return training_examples(config, InstanceExamples.of)


def _objective(model: VISModel, train: Mapping[str, Any], loss: Mapping[str, Any]) -> Objective:
    """The system's own losses; loss: `scale` multiplies them, all else are their settings."""
    settings = dict(loss)
    scale = settings.pop("scale", 1.0)

    def objective(variables, batch, step, rng):
        # whatever dtype they travelled in, config.data.transport
        batch = {**batch, "frames": batch["frames"].astype(jnp.float32)}
        how = dict(method=model.losses, mutable=["batch_stats"])
        (losses, parts), changed = model.apply(variables, batch, rng, step, **settings, **how)
        batch_stats = changed.get("batch_stats", variables.get("batch_stats", {}))
        return scale * losses, batch_stats, {name: part.mean() for name, part in parts.items()}

    return objective


def _segmenter(config: ConfigDict, variables: Mapping[str, Any]) -> InstanceSegmenter:
    return build_vis_inference(config).segmenter(variables)


def _segment(
    args: flags.FlagValues, frames: FrameSource, config: ConfigDict, variables: Mapping[str, Any]
) -> str:
    """Writes <out>/results.json, one entry for each object in order of first appearance."""
    name = config.model.name
    for flag in FOR_LABELS:
        if args[flag].value:
            raise ValueError(f"{name} finds instances by itself: leave out --{flag}")
    target = new_file(f"{args.out}/{RESULTS}", args.overwrite)
    segmenter = _segmenter(config, variables)
    names = config.data.get("classes") or [f"class {k}" for k in range(1, config.model.classes + 1)]
    waiting: list[tuple[str, np.ndarray]] = []  # frames that are not decided yet
    with ExitStack() as stack:
        overlay = None
        if args.overlay:
            writer = OverlayWriter(args.overlay, overwrite=args.overwrite, fps=frames.fps or FPS)
            overlay = stack.enter_context(writer)
        progress = progress_bar(frames, total=frames.length, desc="segment", unit="frame")
        for stem, frame in progress:
            waiting.append((stem, frame))
            _draw(segmenter.step(frame), waiting, overlay, names)
        _draw(segmenter.finish(), waiting, overlay, names)
    tracks = segmenter.tracks.tracks()
    write_whole(target, json.dumps([track.result(1) for track in tracks]).encode())
    return f"wrote {target}: {len(tracks)} objects"


def _draw(
    linked: list[Linked],
    waiting: list[tuple[str, np.ndarray]],
    overlay: Writer | None,
    names: list[str],
) -> None:
    """Hand the frames that were decided to the overlay."""
    for one in linked:
        stem, frame = waiting.pop(0)
        if overlay is not None:
            labels = np.zeros(frame.shape[:2], np.uint8)
            overlay.write(FrameResult(stem, frame, labels, marks=marks_of(one, names)))


VIS = Task(
    examples=_examples,
    objective=_objective,
    scoring=TrackEvaluation,
    segmenter=_segmenter,
    segment=_segment,
)
