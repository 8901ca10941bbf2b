"""A toy run that is told to stop while it trains; test_loop runs this file.

Arguments: workdir, steps, and the step before which this process sends itself SIGTERM (-1: never).
"""

import os
import signal
import sys

from tests.train.toy import batches_of, run, toy_config


def main(workdir: str, steps: int, stop_before: int) -> None:
    config = toy_config(steps=steps, save_steps=0)

    def batches(start):
        for step, batch in enumerate(batches_of(config.train.batch)(start)):
            if step == stop_before:
                os.kill(os.getpid(), signal.SIGTERM)
            yield batch

    run(config, workdir, batches=batches)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
