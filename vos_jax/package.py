"""Turn a folder of label maps into the zip an evaluation server takes.

    python -m vos_jax.package --benchmark B --pred DIR --out X.zip [--data ROOT] [--overwrite]

DIR holds <sequence>/<frame>.png, as `segment` and the evaluation of `main` write them. ROOT is the
data set in its official layout, by default the folder named by VOS_JAX_DATA_DIR: its
lists say which sequences, frames, sizes and object ids are expected. --split and --meta (another
meta.json) go with YouTube-VOS. Every mask is verified first; where one is wrong, all that is wrong
is listed and nothing is written.
"""

import os
import sys
from collections.abc import Sequence

from absl import flags

from vos_jax.command_line import flag, new_flags, parse_flags, path_flag, run_command
from vos_jax.data.sources import ROOT_VARIABLE
from vos_jax.inference.submission import (
    SERVERS,
    YOUTUBE_SPLITS,
    YOUTUBE_VOS,
    expected_sequences,
    write_submission,
)

SPLIT = YOUTUBE_SPLITS[0]


def parse(argv: Sequence[str]) -> flags.FlagValues:
    """The command line as flag values; raises flags.Error where it is wrong."""
    values = new_flags()
    root = os.environ.get(ROOT_VARIABLE)
    flag(values, "benchmark", None, "whose server the zip is for", choices=SERVERS)
    path_flag(values, "pred", "folder of <sequence>/<frame>.png; may be gs://")
    path_flag(values, "out", "the zip to write; may be gs://")
    path_flag(values, "data", "root of the data set in its official layout", root)
    flag(values, "split", None, f"of YouTube-VOS (default: {SPLIT})", choices=YOUTUBE_SPLITS)
    path_flag(values, "meta", "of YouTube-VOS: another meta.json")
    flag(values, "overwrite", False, "replace an existing zip")
    parse_flags(values, argv, required=("benchmark", "pred", "out", "data"))
    given = [f"--{name}" for name in ("split", "meta") if values[name].value]
    if given and values.benchmark != YOUTUBE_VOS and not values.help:
        raise flags.Error(f"{', '.join(given)} goes with {YOUTUBE_VOS}, not {values.benchmark}")
    return values


def run(args: flags.FlagValues) -> str:
    """Do what the command line says; returns the summary."""
    expected = expected_sequences(args.benchmark, args.data, args.split or SPLIT, args.meta)
    done = write_submission(args.benchmark, args.pred, args.out, expected, overwrite=args.overwrite)
    return done.report()


def main(argv: Sequence[str]) -> None:
    """The command; wrong input ends with a message that says what to do."""
    run_command(argv, __doc__, parse, run)


if __name__ == "__main__":
    main(sys.argv)
