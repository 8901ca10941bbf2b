"""What a data folder holds, and everything that is wrong in it.

    python -m vos_jax.data_check DIR [--masks DIR]

DIR is the root of a data set in the layout of DAVIS, YouTube-VOS (or one of its splits),
YouTube-VIS or COCO, a folder with images and masks or with frames and masks, or a folder of frames,
whose masks --masks names. The layout is recognised by the names of the folders. Every file is
opened: sequences, frames, objects and sizes are counted, and every kind of problem is named with
its number, the first file and what mends it. Nothing is changed. Ends with 1 where something is
wrong.

Example: vos-jax data-check /data/mine
"""

import sys
from collections.abc import Sequence

from absl import flags

from vos_jax.command_line import new_flags, parse_flags, path_flag, run_command
from vos_jax.data_checks.layouts import check


def parse(argv: Sequence[str]) -> flags.FlagValues:
    """The command line as flag values; raises flags.Error where it is wrong."""
    values = new_flags()
    path_flag(values, "data", "the folder; its flag may be left out")
    path_flag(values, "masks", "masks of the frames in DIR: <frame stem>.png")
    parse_flags(values, argv, required=("data",), positional="data")
    return values


def run(args: flags.FlagValues) -> str:
    """Do what the command line says; ValueError where something is wrong."""
    found = check(args.data, args.masks)
    print(found.report())
    if found.problems:
        numbers = [number for number, _ in found.problems.values()]
        counted = f"problems {sum(numbers)}, kinds {len(numbers)}"
        raise ValueError(f"{args.data}: not in order: {counted}, listed above")
    return "all is well"


def main(argv: Sequence[str]) -> None:
    """The command; wrong data end it with 1 and a report."""
    run_command(argv, __doc__, parse, run)


if __name__ == "__main__":
    main(sys.argv)
