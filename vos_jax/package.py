"""Turn a folder of label maps into the zip an evaluation server takes.

    python -m vos_jax.package --benchmark B --pred DIR --out X.zip [--data ROOT] [--overwrite]

DIR holds <sequence>/<frame>.png, as `segment` and the evaluation of `main` write them. ROOT is the
data set in its official layout, by default the folder named by VOS_JAX_DATA_DIR: its
lists say which sequences, frames, sizes and object ids are expected. --split and --meta (another
meta.json) go with YouTube-VOS. Every mask is verified first; where one is wrong, all that is wrong
is listed and nothing is written.

With --benchmark youtube-vis, --pred is a results.json, which is checked against the annotation file
of the split and becomes the one file of the zip; --annotations names that file where it lies
elsewhere.

Example: vos-jax package --benchmark youtube-vos --pred masks --out x.zip --data /data/YouTube-VOS
"""

import os
import sys
from collections.abc import Sequence

from absl import flags

from vos_jax.command_line import flag, new_flags, parse_flags, path_flag, run_command
from vos_jax.data.packed import data_folder
from vos_jax.data.sources import ROOT_VARIABLE
from vos_jax.data.youtube_vis import annotation_file
from vos_jax.inference.instance_submission import YOUTUBE_VIS, write_instance_submission
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
    flag(values, "benchmark", None, "whose server the zip is for", choices=(*SERVERS, YOUTUBE_VIS))
    path_flag(
        values,
        "pred",
        f"folder of <sequence>/<frame>.png; {YOUTUBE_VIS}: results.json; may be gs://",
    )
    path_flag(values, "out", "the zip to write; may be gs://")
    path_flag(values, "data", "root of the data set in its official layout", root)
    flag(
        values, "split", None, f"of YouTube-VOS and -VIS (default: {SPLIT})", choices=YOUTUBE_SPLITS
    )
    path_flag(values, "meta", "of YouTube-VOS: another meta.json")
    path_flag(values, "annotations", "of YouTube-VIS: another annotation file")
    flag(values, "overwrite", False, "replace an existing zip")
    parse_flags(values, argv, required=("benchmark", "pred", "out", "data"))
    goes_with = {
        "split": (YOUTUBE_VOS, YOUTUBE_VIS),
        "meta": (YOUTUBE_VOS,),
        "annotations": (YOUTUBE_VIS,),
    }
    for name, benchmarks in goes_with.items():
        if values[name].value and values.benchmark not in benchmarks and not values.help:
            raise flags.Error(
                f"--{name} goes with {' and '.join(benchmarks)}, not {values.benchmark}"
            )
    return values


def run(args: flags.FlagValues) -> str:
    """Do what the command line says; returns the summary."""
    if args.benchmark == YOUTUBE_VIS:
        listed = annotation_file(
            data_folder(args.data), args.split or SPLIT, args.annotations or ""
        )
        done = write_instance_submission(args.pred, listed, args.out, overwrite=args.overwrite)
        return done.report()
    expected = expected_sequences(args.benchmark, args.data, args.split or SPLIT, args.meta)
    done = write_submission(args.benchmark, args.pred, args.out, expected, overwrite=args.overwrite)
    return done.report()


def main(argv: Sequence[str]) -> None:
    """The command; wrong input ends with a message that says what to do."""
    run_command(argv, __doc__, parse, run)


if __name__ == "__main__":
    main(sys.argv)
