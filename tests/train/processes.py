"""One of two processes that train together; test_processes starts both.

Arguments: workdir, case, and flags of vos_jax.main that join the processes; without any the
environment says how.
Cases: "stop" (process 1 alone gets SIGINT while it fetches batch 2), "nan" (example 13, in batch 3
and a row of process 0, is not finite), "lost" (process 0 is killed before step 3) and "eval" (the
command scores the weights in the workdir).
"""

import json
import os
import signal
import sys

import jax
import numpy as np


def main(workdir: str, case: str, *flags: str) -> None:
    if case == "eval":
        evaluate_by_command(workdir, flags)
        return
    from vos_jax.train.distributed import initialize_distributed

    assert initialize_distributed()
    process = jax.process_index()
    if "SLURM_JOB_ID" in os.environ:  # a task for each node uses every GPU there
        assert jax.config.read("jax_cuda_visible_devices") == "all"

    from tests.train.toy import batches_of, run, toy_config
    from vos_jax.train.partition import fetch
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
        return {"J&F": 0.5}

    prepare_workdir(workdir, config, {})
    run(config, workdir, batches, evaluate=evaluate)


def evaluate_by_command(workdir: str, flags: tuple[str, ...]) -> None:
    """`--mode eval` of vos_jax.main; each process writes what it got."""
    from vos_jax import main as command

    evaluation = command.run_evaluation

    def kept(*arguments):
        scores = evaluation(*arguments)
        with open(f"{workdir}/scores_{jax.process_index()}.json", "w") as file:
            json.dump(scores, file)
        return scores

    command.run_evaluation = kept
    checkpoint = f"--checkpoint={workdir}/weights"
    command.main(["main", "--mode=eval", checkpoint, f"--workdir={workdir}", *flags])


if __name__ == "__main__":
    main(*sys.argv[1:])
