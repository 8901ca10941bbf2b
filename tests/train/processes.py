"""One of two processes that train together; test_processes starts both.

Arguments: process number, port of the coordinator, workdir, case.
Cases: "stop" (process 1 alone gets SIGINT while it fetches batch 2), "nan" (example 13, in batch 3
and a row of process 0, is not finite), "lost" (process 0 is killed before step 3) and "eval" (the
weights in the workdir are scored).
"""

import json
import os
import signal
import sys

import jax
import numpy as np


def main(process: int, port: str, workdir: str, case: str) -> None:
    jax.distributed.initialize(
        f"localhost:{port}", num_processes=2, process_id=process, initialization_timeout=1200
    )
    if case == "eval":
        from vos_jax.main import run_evaluation

        scores = run_evaluation(None, f"{workdir}/weights", f"{workdir}/results")
        with open(f"{workdir}/scores_{process}.json", "w") as file:
            json.dump(scores, file)
        return
    from tests.train.toy import batches_of, run, toy_config
    from vos_jax.train.partition import broadcast, fetch
    from vos_jax.train.workdir import prepare_workdir

    config = toy_config(save_steps=3 if case == "nan" else 0)
    config.mesh.update({"data": 1, "fsdp": 2})
    if case in ("stop", "lost"):
        config.train.steps = 1000

    def batches(start):
        whole = batches_of(4, poison=13 if case == "nan" else -1)(start)
        for step, batch in enumerate(whole):
            if case == "stop" and process == 1 and step == 2:
                os.kill(os.getpid(), signal.SIGINT)
            if case == "lost" and process == 0 and step == 3:
                os.kill(os.getpid(), signal.SIGKILL)
            yield {key: rows[2 * process : 2 * process + 2] for key, rows in batch.items()}

    def evaluate(variables, step):
        whole = fetch(variables)  # split over the processes by fsdp
        assert jax.tree.map(np.shape, whole) == jax.tree.map(np.shape, variables)
        return broadcast({"J&F": 0.5 + process})

    prepare_workdir(workdir, config, {})
    run(config, workdir, batches, evaluate=evaluate)


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])
