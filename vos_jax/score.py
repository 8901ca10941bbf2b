"""Official metrics on folders of results.

    python -m vos_jax.score --protocol P --gt PATH --pred PATH --out DIR [--set val] [--workers N]

--help lists the protocols. --gt is the root of the data set in its official layout, --pred a folder
of sequence folders with one PNG of object ids per frame, as `segment` and `main` write them. DIR
gets the official CSVs and scores.json. What does not fit - a missing or extra frame, a wrong size,
an unknown id - is refused by name: a score is of the whole set or it is none.

With --protocol youtube-vis, --gt is the annotation file of a split and --pred a results.json.

Example: vos-jax score --protocol davis2017 --gt /data/DAVIS --pred masks --out scores
"""

import sys
from collections.abc import Sequence

from absl import flags

from vos_jax.command_line import flag, new_flags, parse_flags, path_flag, run_command
from vos_jax.data.davis import RESOLUTIONS
from vos_jax.metrics import tables, track_tables
from vos_jax.metrics.protocols import PROTOCOLS, TEMPORAL
from vos_jax.scoring import DATA_SETS, score
from vos_jax.track_scoring import score_tracks

TRACKS = track_tables.PROTOCOL  # scores one file of tracks, not folders of masks
OF_TRACKS = ("protocol", "gt", "pred", "out", "overwrite", "class_agnostic", "help")


def parse(argv: Sequence[str]) -> flags.FlagValues:
    """The command line as flag values; raises flags.Error where it is wrong."""
    values = new_flags()
    flag(values, "protocol", None, "what is counted and how", choices=(*PROTOCOLS, TRACKS))
    path_flag(values, "gt", f"root of the data set in its official layout; {TRACKS}: a json file")
    path_flag(values, "pred", f"folder of sequence folders with results; {TRACKS}: results.json")
    path_flag(values, "out", "folder for the CSVs and scores.json")
    flag(values, "set", None, "list or part of the data set (default: val, test...)")
    flag(values, "workers", 1, "processes", at_least=1)
    flag(values, "by", None, "a further table of groups", choices=tables.GROUPINGS)
    flag(values, "resolution", None, "DAVIS: folder of masks", choices=RESOLUTIONS)
    path_flag(values, "meta", "youtube-vos: another meta.json")
    path_flag(values, "seen", "youtube-vos: file with the seen categories")
    flag(values, "temporal", "none", "davis2016: T, in which sequences", choices=TEMPORAL)
    flag(values, "average", "", "fbms: frames; youtube-objects, segtrack: sequences")
    flag(values, "class_agnostic", False, f"{TRACKS}: categories play no part")
    flag(values, "allow_missing", False, "leave out what has no result")
    flag(values, "overwrite", False, "replace results that exist")
    parse_flags(values, argv, required=("protocol", "gt", "pred", "out"))
    if values.help:
        return values
    if values.protocol == TRACKS:
        given = [name for name in values if name not in OF_TRACKS and values[name].present]
        if given:
            raise flags.Error(f"--{given[0]} does not go with --protocol {TRACKS}")
        return values
    if values.class_agnostic:
        raise flags.Error(f"--class_agnostic goes with --protocol {TRACKS}")
    data_set = DATA_SETS[values.protocol]
    for name in ("resolution", "meta"):
        if values[name].value and name not in data_set.options:
            raise flags.Error(f"--{name} does not go with --protocol {values.protocol}")
    if values.by == "category" and not data_set.categories:
        named = [name for name, other in DATA_SETS.items() if other.categories]
        raise flags.Error(
            f"--by=category: {values.protocol} names no categories; {' and '.join(named)} do"
        )
    if values.allow_missing and not data_set.partial:
        raise flags.Error(
            f"--allow-missing: {values.protocol} is defined over whole sets; name the sequences you"
            " have in a list of your own in ImageSets and give it with --set"
        )
    return values


def run(args: flags.FlagValues) -> str:
    """Do what the command line says; returns the tables and what they count."""
    return (_score_tracks if args.protocol == TRACKS else _score_masks)(args)


def _score_tracks(args: flags.FlagValues) -> str:
    track_tables.refuse_existing(args.out, args.overwrite)  # now, not after the work
    found = score_tracks(args.gt, args.pred, args.class_agnostic)
    found.write(args.out, args.overwrite)
    return f"{found.report()}\nresults in {args.out}"


def _score_masks(args: flags.FlagValues) -> str:
    subset = args.set or DATA_SETS[args.protocol].subset
    tables.refuse_existing(args.out, subset, args.overwrite)  # now, not after the work
    given = {name: args[name].value for name in ("resolution", "meta") if args[name].value}
    found = score(
        args.protocol,
        args.gt,
        args.pred,
        subset=subset,
        workers=args.workers,
        average=args.average,
        temporal=args.temporal,
        seen=args.seen,
        allow_missing=args.allow_missing,
        **given,
    )
    found.write(args.out, args.overwrite)
    return f"{found.report(args.by)}\nresults in {args.out}"


def main(argv: Sequence[str]) -> None:
    """The command; wrong input ends with a message that says what to do."""
    run_command(argv, __doc__, parse, run)


if __name__ == "__main__":
    main(sys.argv)
