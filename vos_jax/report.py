"""An evaluation as one page of HTML, which needs no network: tables, overlays, config.

    python -m vos_jax.report --results DIR [--out FILE.html] [--overwrite]

--results: what an evaluation wrote (runs/demo/results/step_1000), or the --out of `score`. The page
has the scores of all methods, those of every sequence, the worst first, its overlay to look through
frame by frame, and the run's config and versions. By default it is report.html in --results; every
evaluation writes it there. Overlays of many or long sequences are thinned out, so that a page stays
below some 20 MB; it says how many frames it shows.

Example: vos-jax report --results runs/demo/results/step_1000
"""

import sys
from collections.abc import Sequence

from absl import flags

from vos_jax.command_line import flag, new_flags, parse_flags, path_flag, run_command
from vos_jax.reporting.page import NAME, write_report


def parse(argv: Sequence[str]) -> flags.FlagValues:
    """The command line as flag values; raises flags.Error where it is wrong."""
    values = new_flags()
    path_flag(values, "results", "folder with scores.json")
    path_flag(values, "out", f"the page; default: {NAME} in --results")
    flag(values, "overwrite", False, "replace a page that exists")
    parse_flags(values, argv, required=("results",))
    return values


def run(args: flags.FlagValues) -> str:
    """Do what the command line says; returns what was written."""
    return f"wrote {write_report(args.results, args.out, args.overwrite)}"


def main(argv: Sequence[str]) -> None:
    """The command; wrong input ends with one line that says what to do."""
    run_command(argv, __doc__, parse, run)


if __name__ == "__main__":
    main(sys.argv)
