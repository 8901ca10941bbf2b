"""The command vos-jax: one verb for everything that the modules with a `main` do.

`vos-jax segment ...` is `python -m vos_jax.segment ...`. A verb is a line of VERBS.
"""

import importlib
import multiprocessing
import os
import signal
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from typing import NamedTuple

import vos_jax
from vos_jax.command_line import ending_plainly


class Verb(NamedTuple):
    """module: of vos_jax, whose main(argv) does it. first: flags that come before the user's.
    named: argv begins with the program's name.
    """

    module: str
    meaning: str
    first: tuple[str, ...] = ()
    named: bool = True


VERBS = {
    "train": Verb(
        "main", "train a system; --mode train_and_eval scores it, too", ("--mode=train",)
    ),
    "evaluate": Verb("main", "score a checkpoint on a data set", ("--mode=eval",)),
    "segment": Verb("segment", "masks for the frames of your own video"),
    "annotate": Verb("annotate", "a page to paint masks in, correct and propagate them"),
    "score": Verb("score", "official measures on folders of results, anybody's"),
    "report": Verb("report", "an evaluation as one page: tables, overlays, config"),
    "package": Verb("package", "check results and zip them for an evaluation server"),
    "convert": Verb("convert", "import the released weights of a system or backbone"),
    "export": Verb("export", "a system's step as StableHLO, for machines without vos_jax"),
    "import-annotations": Verb("import_annotations", "COCO, labelme, CVAT or YouTube-VIS to masks"),
    "data-check": Verb("data_check", "what a data folder holds, and what is wrong in it"),
    "pack": Verb("pack", "a data folder as a few large files, for stores and network disks"),
    "figures": Verb("figures", "what MaskProp carries, AP by clip length, linkers side by side"),
    "doctor": Verb("doctor", "is this machine ready: versions, devices, folders, a self-test"),
    "benchmark": Verb("benchmark", "speed and memory", named=False),
}

HELP = """\
vos-jax VERB [--FLAG=VALUE ...]    video object and instance segmentation in JAX

{verbs}

vos-jax VERB --help lists the flags of a verb, with an example; --quiet goes with all of them.
Python: import vos_jax. A verb ends with 0 when done, with 1 and one message when not, with 130
when interrupted (Ctrl-C). To begin:

    vos-jax doctor
    vos-jax train --config feelvos --workdir runs/demo
    vos-jax evaluate --config feelvos --workdir runs/demo"""


def script() -> None:
    """`main` as a process of its own, which ends at once when it is interrupted.

    JAX that was interrupted while it compiled crashes when the interpreter takes itself down, and
    the exit code would be that of the crash.
    """
    try:
        main(sys.argv)
    except SystemExit as stop:
        if stop.code != 128 + signal.SIGINT:
            raise
        for child in multiprocessing.active_children():
            child.terminate()
        sys.stdout.flush()
        os._exit(stop.code)


def main(argv: Sequence[str]) -> None:
    """argv: the program's name, then a verb and its flags."""
    words = list(argv)[1:]
    with ending_plainly(()):
        if not words or words[0] in ("-h", "--help", "help"):
            print(HELP.format(verbs=_table()))
        elif words[0] == "--version":
            print(vos_jax.__version__)
        else:
            name, rest = _name(words[0]), words[1:]
            verb = VERBS[name]
            start = [f"vos-jax {name}"] if verb.named else []
            module = importlib.import_module(f"vos_jax.{verb.module}")
            module.main([*start, *verb.first, *rest])


def _name(typed: str) -> str:
    """The name of the verb that was typed; - and _ are the same."""
    name = typed.replace("_", "-")
    if name not in VERBS:
        near = get_close_matches(name, VERBS, n=1)
        sys.exit(
            f"error: there is no verb {typed!r}"
            + (f"; did you mean {near[0]!r}?" if near else f": {', '.join(VERBS)}")
            + " (vos-jax --help)"
        )
    return name


def _table() -> str:
    width = max(map(len, VERBS)) + 2
    return "\n".join(f"    {name:{width}}{verb.meaning}" for name, verb in VERBS.items())


if __name__ == "__main__":
    script()
