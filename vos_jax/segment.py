"""Segment your own video: frames and a first mask in, label maps and overlays out.

    python -m vos_jax.segment --checkpoint DIR --frames FOLDER|VIDEO --mask PNG|FOLDER --out DIR

Frames are read, segmented and written one at a time, so a video may be of any length. A system that
finds its objects itself goes without --mask.

Example: vos-jax segment --checkpoint runs/demo --frames clip.mp4 --mask first.png --out masks
"""

import sys
from collections.abc import Sequence

from absl import flags

from vos_jax.command_line import (
    flag,
    new_flags,
    parse_flags,
    path_flag,
    run_command,
    say_config,
)
from vos_jax.data.frames import open_frames
from vos_jax.files import keep_apart
from vos_jax.loading import load_variables
from vos_jax.tasks import task_of

INPUTS = ("checkpoint", "frames", "mask")
OUTPUTS = ("out", "overlay", "probabilities", "maps", "evidence")


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
    variables, config = load_variables(args.checkpoint, args.config)
    return task_of(config).segment(args, frames, config, variables)


def main(argv: Sequence[str]) -> None:
    """The command; wrong input ends with one line that says what to do."""
    run_command(argv, __doc__, parse, run)


if __name__ == "__main__":
    main(sys.argv)
