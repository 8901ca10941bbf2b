"""Video object segmentation: objects are given by masks, or proposed; label maps come out."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from absl import flags
from ml_collections import ConfigDict

from vos_jax.data.frames import FrameSource
from vos_jax.data.given_masks import GivenMasks
from vos_jax.data.stages import training_examples
from vos_jax.evaluating.instances import InstanceEvaluation
from vos_jax.evaluation import Evaluation
from vos_jax.inference.evidence import EvidenceWriter, check_evidence
from vos_jax.inference.overlay import OverlayWriter
from vos_jax.inference.segmenting import segment
from vos_jax.inference.setup import Inference, build_inference
from vos_jax.inference.streaming import VideoSegmenter
from vos_jax.inference.writers import MapWriter, MaskWriter, ProbabilityWriter, Writer
from vos_jax.metrics.protocols import INSTANCES
from vos_jax.notes import progress_bar
from vos_jax.tasks.base import Task
from vos_jax.train.objective import make_objective


def _scoring(config: ConfigDict) -> Evaluation | InstanceEvaluation:
    """Of label maps of videos, or of scored objects of images."""
    return (InstanceEvaluation if config.eval.protocol == INSTANCES else Evaluation)(config)


def _segmenter(config: ConfigDict, variables: Mapping[str, Any]) -> VideoSegmenter:
    return build_inference(config).segmenter(variables)


def _segment(
    args: flags.FlagValues, frames: FrameSource, config: ConfigDict, variables: Mapping[str, Any]
) -> str:
    masks = GivenMasks(args.mask, frames) if args.mask else None
    inference = build_inference(config)
    _check_guidance(config.model.name, inference.model.traits.guidance, masks is not None)
    if args.evidence:
        check_evidence(inference.model)
    if masks is None:
        ids = list(range(1, inference.model.traits.proposals + 1))
        segmenter = inference.segmenter(variables)
        _observe(segmenter, inference, frames)
    else:
        ids = masks.ids()
        segmenter = inference.segmenter(variables, ids)
    with ExitStack() as stack:
        writers = [stack.enter_context(w) for w in _writers(args, frames, ids)]
        progress = progress_bar(frames, total=frames.length, desc="segment", unit="frame")
        found = segment(segmenter, progress, masks, writers, evidence=bool(args.evidence))
    return f"wrote {args.out}: objects {found}"


def _check_guidance(system: str, guidance: str, given: bool) -> None:
    if guidance == "masks" and not given:
        raise ValueError(
            f"missing --mask: {system} segments the objects that the mask of the first frame shows"
        )
    if guidance == "none" and given:
        raise ValueError(f"{system} finds its objects itself and takes no masks: leave out --mask")


def _observe(segmenter: VideoSegmenter, inference: Inference, frames: FrameSource) -> None:
    """The segmenter sees the reference frames that its system asks for."""
    if inference.reference_frames(frames.length or 1):
        segmenter.observe(frames.pick(inference.reference_frames(frames.count())))


def _writers(args: flags.FlagValues, frames: FrameSource, ids: Sequence[int]) -> Iterable[Writer]:
    # The one that may refuse for its size comes first, before anything is written.
    if args.probabilities:
        yield ProbabilityWriter(args.probabilities, ids, frames.length, frames.size, args.overwrite)
    yield MaskWriter(args.out, args.overwrite)
    if args.maps:
        yield MapWriter(args.maps, ids, args.overwrite)
    if args.evidence:
        yield EvidenceWriter(args.evidence, args.overwrite)
    if args.overlay:
        yield OverlayWriter(args.overlay, overwrite=args.overwrite, fps=frames.fps)


VOS = Task(
    examples=training_examples,
    objective=make_objective,
    scoring=_scoring,
    segmenter=_segmenter,
    segment=_segment,
)
