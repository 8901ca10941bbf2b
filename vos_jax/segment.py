"""Segment your own video: frames and a first mask in, label maps and overlays out.

    python -m vos_jax.segment --checkpoint DIR --frames FOLDER|VIDEO --mask PNG|FOLDER --out DIR

Frames are read, segmented and written one at a time, so a video may be of any length.
"""

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
from absl import flags
from etils import epath
from ml_collections import ConfigDict
from tqdm import tqdm

from vos_jax.command_line import new_flags, parse_flags, run_command
from vos_jax.data.clip import object_ids
from vos_jax.data.frames import FrameSource, list_images, open_frames
from vos_jax.data.masks import read_mask
from vos_jax.inference.overlay import OverlayWriter
from vos_jax.inference.streaming import VideoSegmenter
from vos_jax.inference.writers import (
    FrameResult,
    MapWriter,
    MaskWriter,
    ProbabilityWriter,
    Writer,
)
from vos_jax.models import build_inference_model
from vos_jax.train.checkpoint import differing_fields, import_variables


def segment(
    model: Any,
    variables: Mapping[str, Any],
    frames: Iterable[tuple[str, np.ndarray]],
    masks: "GivenMasks",
    writers: Sequence[Writer],
    segmenter: Callable[..., Any] = VideoSegmenter,
) -> list[int]:
    """Segment frames as they come and hand each result to every writer.

    Args:
      model, variables: handed to `segmenter`.
      frames: (stem, uint8 [H, W, 3] RGB) in time order.
      masks: the given masks; the first frame needs one.
      writers: get a `FrameResult` per frame. The first frame's labels are its mask as given.
      segmenter: `segmenter(model, variables)`, see `VideoSegmenter`.

    Returns:
      The ids of all objects met.

    Raises:
      ValueError: the first frame has no mask or a mask without objects, a mask has another size
        than its frame or matches no frame, or there is no frame.
    """
    tracker, stems = None, []
    for stem, frame in frames:
        given = masks.at(stem, frame.shape[:2])
        if tracker is None:
            _check_first(stem, given, masks)
            tracker = segmenter(model, variables)
            tracker.step(frame, given)
            labels = given
        else:
            labels = tracker.step(frame, given)
        result = FrameResult(stem, frame, labels, tuple(tracker.ids), tracker.probabilities)
        for writer in writers:
            writer.write(result)
        stems.append(stem)
    if tracker is None:
        raise ValueError("there are no frames to segment")
    masks.check_stems(stems)
    return list(tracker.ids)


class GivenMasks:
    """Masks by frame stem, read when their frame comes.

    Args:
      path: one image, the mask of the first frame whatever its name, or a folder of <stem>.png.
      stems: the stems of all frames, in time order, or the first only, when `complete` is False.
      complete: whether the stems are all there are; a video file may not know its length.

    Raises:
      FileNotFoundError: nothing at `path`, or no .png in the folder.
      ValueError: mask files whose stem is no frame's.
    """

    def __init__(self, path: epath.PathLike, stems: Sequence[str], complete: bool = True):
        self.path = epath.Path(path)
        if self.path.is_dir():
            files = sorted(self.path.glob("*.png"))
            self._files = {file.stem: file for file in files if not file.name.startswith(".")}
        elif self.path.exists():
            self._files = {stems[0]: self.path}
        else:
            raise FileNotFoundError(f"no mask at {path}: expected a PNG file or a folder of them")
        if not self._files:
            raise FileNotFoundError(f"{path} holds no .png mask")
        if complete:
            self.check_stems(stems)

    def at(self, stem: str, size: tuple[int, int]) -> np.ndarray | None:
        """The mask of a frame, uint8 [H, W], or None.

        Raises ValueError unless it has the frame's `size` (H, W).
        """
        file = self._files.get(stem)
        if file is None:
            return None
        return read_mask(file, size)

    def ids(self) -> list[int]:
        """All object ids of all masks, ascending. Reads every mask."""
        return sorted({i for file in self._files.values() for i in object_ids(read_mask(file))})

    def check_stems(self, stems: Sequence[str]) -> None:
        """Raises ValueError when a mask has the stem of no frame."""
        known = set(stems)
        unknown = [file.name for stem, file in self._files.items() if stem not in known]
        if unknown:
            shown = ", ".join(unknown[:5]) + (" ..." if len(unknown) > 5 else "")
            raise ValueError(
                f"{self.path}: {len(unknown)} of {len(self._files)} masks match no frame: {shown}; "
                f"the frames are called {stems[0]} to {stems[-1]}, a mask has its frame's name "
                "with the ending .png"
            )


def frame_stems(frames: FrameSource) -> tuple[list[str], bool]:
    """The stems of all frames without reading them, and whether they are known to be all."""
    if epath.Path(frames.path).is_dir():
        return [file.stem for file in list_images(frames.path)], True
    return [f"{t:05d}" for t in range(frames.length or 1)], frames.length is not None


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


def load(checkpoint: str, config: ConfigDict | None = None) -> tuple[Any, dict[str, Any]]:
    """A model and its variables from a checkpoint folder.

    Args:
      checkpoint: a folder written by convert, a workdir or a step folder.
      config: the config the caller asked for, or None for the checkpoint's own. Its model section
        must be the checkpoint's; its inference section is what counts.

    Raises ValueError when `config` describes another model than the checkpoint holds.
    """
    variables, stored = import_variables(checkpoint)
    stored = ConfigDict(stored)
    if config is not None:
        fields = differing_fields(
            {"model": stored.model.to_dict()}, {"model": config.model.to_dict()}
        )
        if fields:
            raise ValueError(
                f"{checkpoint} was made with another config; these fields differ (its own -> "
                f"asked for): {', '.join(fields)}. Leave out --config to use the checkpoint's own"
            )
        stored.inference = config.get("inference", ConfigDict())
    return build_inference_model(stored), variables


def parse(argv: Sequence[str]) -> flags.FlagValues:
    """The command line as flag values; raises absl's flags.Error where it is wrong."""
    values, text = new_flags(argv), []
    text.append(("checkpoint", "folder written by convert, a workdir or a step folder"))
    text.append(("frames", "folder of images or a video file"))
    text.append(("mask", "mask PNG of the first frame, or a folder of <frame stem>.png"))
    text.append(("out", "folder for <frame stem>.png label maps"))
    text.append(("overlay", "video of the result: .mp4, .gif or a folder"))
    text.append(("probabilities", "one .npz with all probabilities, at most 2 GB"))
    text.append(("maps", "folder for one .npz of probabilities per frame"))
    for name, explanation in text:
        flags.DEFINE_string(name, None, explanation, flag_values=values)
    flags.DEFINE_bool("overwrite", False, "replace what is there", flag_values=values)
    parse_flags(values, argv, required=("checkpoint", "frames", "mask", "out"))
    return values


def run(args: flags.FlagValues) -> str:
    """Do what the command line says; returns what was written."""
    frames = open_frames(args.frames)
    masks = GivenMasks(args.mask, *frame_stems(frames))
    model, variables = load(args.checkpoint, args.config)
    with ExitStack() as stack:
        writers = [stack.enter_context(w) for w in _writers(args, frames, masks)]
        progress = tqdm(frames, total=frames.length, desc="segment", unit="frame", disable=None)
        ids = segment(model, variables, progress, masks, writers)
    return f"wrote {args.out}: objects {ids}"


def _writers(args: flags.FlagValues, frames: FrameSource, masks: GivenMasks) -> Iterable[Writer]:
    # The one that may refuse for its size comes first, before anything is written.
    if args.probabilities:
        yield ProbabilityWriter(
            args.probabilities, masks.ids(), frames.length, frames.size, args.overwrite
        )
    yield MaskWriter(args.out, args.overwrite)
    if args.maps:
        yield MapWriter(args.maps, masks.ids(), args.overwrite)
    if args.overlay:
        yield OverlayWriter(args.overlay, overwrite=args.overwrite)


def main(argv: Sequence[str]) -> None:
    """The command; wrong input ends with one line that says what to do."""
    run_command(argv, __doc__, parse, run)


if __name__ == "__main__":
    main(sys.argv)
