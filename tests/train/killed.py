"""What test_kills kills.

run WORKDIR STEPS    a toy run that saves every step and evaluates every third one
describe FOLDER      a process for each of MOMENTS that writes the config and the manifest of
                     FOLDER/<moment> and dies by SIGKILL there
"""

import os
import signal
import sys
from pathlib import Path

from tests.train.toy import run, toy_config
from vos_jax.train.workdir import prepare_workdir

# Which of the two files gets its name, and whether death comes before or after that.
MOMENTS = [(number, when) for number in (1, 2) for when in ("before", "after")]


def config(steps: int):
    config = toy_config(steps=steps, save_steps=1)
    config.optim.schedule = "constant"  # no step changes nothing
    config.log.every = 1
    return config


def train(workdir, steps: int):
    """The result of a run whose evaluations become better and better."""
    asked = config(steps)
    prepare_workdir(workdir, asked, {"note": "a start"})
    return run(asked, workdir, evaluate=lambda variables, step: {"J&F": float(step)})


def describe(folder: Path) -> None:
    for moment in MOMENTS:
        child = os.fork()  # JAX has started nothing yet
        if child == 0:
            os.replace = _deadly(os.replace, *moment)
            prepare_workdir(folder / "_".join(map(str, moment)), config(3), {"note": "killed"})
            os._exit(0)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


def _deadly(replace, number: int, when: str):
    calls = []

    def deadly(source, target):
        calls.append(target)
        if len(calls) == number and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        replace(source, target)
        if len(calls) == number:
            os.kill(os.getpid(), signal.SIGKILL)

    return deadly


if __name__ == "__main__":
    if sys.argv[1] == "describe":
        describe(Path(sys.argv[2]))
    else:
        train(sys.argv[2], int(sys.argv[3]))
