"""Segment your own video: frames and a first mask in, label maps and overlays out.

    python -m vos_jax.segment --checkpoint DIR --frames FOLDER|VIDEO --mask PNG|FOLDER --out DIR

Frames are read, segmented and written one at a time, so a video may be of any length. A system that
finds its objects itself goes without --mask.
"""

import sys
from collections.abc import Iterable, Sequence
from contextlib import ExitStack

import numpy as np
from absl import flags
from tqdm import tqdm

from vos_jax.command_line import (
    flag,
    new_flags,
    parse_flags,
    path_flag,
    run_command,
    say_config,
)
from vos_jax.data.clip import VOID, object_ids
from vos_jax.data.frames import FrameSource, open_frames
from vos_jax.data.given_masks import GivenMasks
from vos_jax.files import keep_apart
from vos_jax.inference.evidence import EvidenceWriter, check_evidence
from vos_jax.inference.overlay import OverlayWriter
from vos_jax.inference.setup import Inference, build_inference
from vos_jax.inference.streaming import VideoSegmenter
from vos_jax.inference.writers import (
    FrameResult,
    MapWriter,
    MaskWriter,
    ProbabilityWriter,
    Writer,
)
from vos_jax.loading import load_variables
from vos_jax.notes import note

INPUTS = ("checkpoint", "frames", "mask")
OUTPUTS = ("out", "overlay", "probabilities", "maps", "evidence")


def segment(
    segmenter: VideoSegmenter,
    frames: Iterable[tuple[str, np.ndarray]],
    masks: GivenMasks | None,
    writers: Sequence[Writer],
    evidence: bool = False,
) -> list[int]:
    """Segment frames as they come and hand each result to every writer.

    Args:
        segmenter: one that has not seen a frame.
        frames: (stem, uint8 [H, W, 3] RGB) in time order.
        masks: the given masks; the first frame needs one. None: the system finds its objects.
        writers: get a `FrameResult` per frame. The first frame's labels are its mask as given.
        evidence: the results hold what the system goes by; each frame is encoded once more.

    Returns:
        The ids of all objects met.

    Raises:
        ValueError: the first frame has no mask or a mask without objects, a mask has another size
            than its frame or matches no frame, or there is no frame.
    """
    stems = []
    for stem, frame in frames:
        given = None if masks is None else masks.at(stem, frame.shape[:2])
        if masks is not None and not stems:
            _check_first(stem, given, masks)
        if given is not None:
            _tell(masks.name(stem), given)
        seen = segmenter.evidence(frame) if evidence else {}
        labels = segmenter.step(frame, given)
        result = FrameResult(
            stem, frame, labels, tuple(segmenter.ids), segmenter.probabilities, seen
        )
        for writer in writers:
            writer.write(result)
        stems.append(stem)
    if not stems:
        raise ValueError("there are no frames to segment")
    if masks is not None:
        masks.check_stems(stems)
    return list(segmenter.ids)


def _check_first(stem: str, mask: np.ndarray | None, masks: GivenMasks) -> None:
    if mask is None:
        raise ValueError(
            f"{masks.path}: the first frame, {stem}, has no mask; add {stem}.png, or start the "
            "frames where the first object is given"
        )
    if not object_ids(mask):
        raise ValueError(
            f"{masks.path}: the mask of the first frame, {stem}, holds no object: expected at "
            f"least one id in 1..254, found {np.unique(mask).tolist()}"
        )


def _tell(name: str, mask: np.ndarray) -> None:
    """What a given mask holds that a user may not expect."""
    void = int((mask == VOID).sum())
    if void:
        note(f"{name}: {void} pixels are 255, which means void: unknown, of no object")
    if not object_ids(mask):
        note(
            f"{name} holds no object and changes nothing: a later mask adds or corrects the objects"
            " in it, and no others"
        )


def parse(argv: Sequence[str]) -> flags.FlagValues:
    """The command line as flag values; raises absl's flags.Error where it is wrong."""
    values = new_flags(argv)
    path_flag(values, "checkpoint", "folder written by convert, a workdir or a step folder")
    path_flag(values, "frames", "folder of images or a video file")
    path_flag(
        values,
        "mask",
        "mask PNG of the first frame, or a folder of <frame stem>.png; left out for a system that "
        "finds its objects itself",
    )
    path_flag(values, "out", "folder for <frame stem>.png label maps")
    path_flag(values, "overlay", "video of the result: .mp4, .gif or a folder")
    path_flag(values, "probabilities", "one .npz with all probabilities, at most 2 GB")
    path_flag(values, "maps", "folder for one .npz of probabilities per frame")
    path_flag(values, "evidence", "folder for one picture per frame of what the system goes by")
    flag(values, "overwrite", False, "replace files of the names that are written")
    parse_flags(values, argv, required=("checkpoint", "frames", "out"))
    return values


def run(args: flags.FlagValues) -> str:
    """Do what the command line says; returns what was written."""
    say_config(args)
    keep_apart(*({f"--{name}": args[name].value for name in part} for part in (INPUTS, OUTPUTS)))
    frames = open_frames(args.frames)
    masks = GivenMasks(args.mask, frames) if args.mask else None
    variables, config = load_variables(args.checkpoint, args.config)
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
        progress = tqdm(frames, total=frames.length, desc="segment", unit="frame", disable=None)
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


def main(argv: Sequence[str]) -> None:
    """The command; wrong input ends with one line that says what to do."""
    run_command(argv, __doc__, parse, run)


if __name__ == "__main__":
    main(sys.argv)
