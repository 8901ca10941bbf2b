import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np

from tests import tiny
from tests.train.toy import build, run, toy_config
from vos_jax.checkpoint_folder import export_variables
from vos_jax.train.checkpoint import Checkpoints
from vos_jax.train.distributed import GIVEN

ROOT = Path(__file__).parents[2]


def launch(workdir, case, by="variables"):
    """[(exit code, stderr, stdout)] of two processes in one workdir.

    by: what joins them, "variables" or "flags" with the address of the coordinator, or "slurm".
    """
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    given = {"coordinator_address": f"localhost:{port}", "num_processes": "2"}
    common = dict(os.environ, JAX_PLATFORMS="cpu", PYTHONPATH=str(ROOT), XLA_FLAGS="")
    command = [sys.executable, "-m", "tests.train.processes", str(workdir), case]

    def start(process):
        values = {**given, "process_id": str(process)}
        if by == "slurm":
            environment, flags = {**slurm_step(process), "JAX_COORDINATOR_PORT": port}, []
        elif by == "flags":
            environment, flags = {}, [f"--{name}={value}" for name, value in values.items()]
        else:
            environment, flags = {GIVEN[name]: value for name, value in values.items()}, []
        return subprocess.Popen(
            [*command, *flags],
            env=common | environment,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    started = [start(process) for process in (0, 1)]
    try:
        said = [process.communicate(timeout=1200) for process in started]
    finally:
        for process in started:
            process.kill()
    return [(p.returncode, err, out) for p, (out, err) in zip(started, said, strict=True)]


def slurm_step(process):
    """The variables of a task of a step that has a task on each of two nodes, both this machine."""
    return {
        "SLURM_JOB_ID": "7",
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_STEP_TASKS_PER_NODE": "1(x2)",
        "SLURM_NTASKS": "2",
        "SLURM_PROCID": str(process),
        "SLURM_LOCALID": "0",
        "SLURM_NODEID": str(process),
    }


def test_a_signal_to_one_process_saves_the_same_step_on_both_and_the_run_goes_on(tmp_path):
    stopped = launch(tmp_path / "parts", "stop")
    assert [code for code, *_ in stopped] == [143, 143], stopped[0][1][-3000:]
    assert "by SIGTERM; saved" in stopped[0][1] and "by SIGTERM" not in stopped[1][1]
    checkpoints = Checkpoints(tmp_path / "parts")
    step = checkpoints.latest_step()
    assert step >= 2

    # One process with one device continues exactly where two have stopped.
    config = toy_config(steps=step + 2, save_steps=0)
    restored = checkpoints.restore(build(config)[0])
    checkpoints.close()
    single = run(toy_config(steps=step, save_steps=0), tmp_path / "single").state
    for a, b in zip(jax.tree.leaves(single), jax.tree.leaves(restored), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
    assert int(run(config, tmp_path / "parts").state.step) == step + 2


def test_a_process_that_loses_another_one_says_so_in_a_line(tmp_path):
    (killed, *_), (other, said, _) = launch(tmp_path, "lost", by="slurm")
    # JAX aborts the other one, unless a collective has failed before and its error ends it
    assert killed == -signal.SIGKILL and other in (-signal.SIGABRT, 1)
    last = said.splitlines()[-1]
    assert last.startswith("process 1 of 2 ended without saving: it was killed, or another")
    assert "Run the same command in every process" in last and str(tmp_path) in last


def test_a_process_that_waits_in_vain_for_the_others_says_what_to_do():
    program = (
        "from vos_jax.train import distributed; distributed.WAIT = 1;"
        "distributed.initialize_distributed()"
    )
    with socket.socket() as taken:  # nobody listens there
        taken.bind(("localhost", 0))
        values = (f"localhost:{taken.getsockname()[1]}", "2", "1")
        by_hand = dict(zip(GIVEN.values(), values, strict=True))
        environment = dict(os.environ, PYTHONPATH=str(ROOT), **by_hand)
        alone = subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True
        )
    last = alone.stderr.splitlines()[-1]
    assert alone.returncode and "the other processes of this run could not be joined" in last
    assert "num_processes=2, process_id=1" in last and "VOS_JAX_DISTRIBUTED=0 runs this" in last


def test_two_processes_evaluate_together_and_both_get_the_scores(tiny_feelvos, tmp_path):
    config = tiny.get_config("feelvos")
    export_variables(tmp_path / "weights", tiny_feelvos[1], config.to_dict(), {})
    processes = launch(tmp_path, "eval", by="flags")
    for code, said, _ in processes:
        assert code == 0, said[-3000:]
    printed = [
        [line for line in out.splitlines() if not line.startswith("[Gloo]")]
        for *_, out in processes
    ]
    assert printed[0][0] == "2 processes, 2 devices (cpu)"  # and the other one is silent
    assert printed[1] == printed[0][-1:] == [f"results in {tmp_path}/results/eval"]
    stored = json.loads((tmp_path / "results/eval/scores.json").read_text())["metrics"]
    for process in (0, 1):
        assert json.loads((tmp_path / f"scores_{process}.json").read_text()) == stored


def test_two_processes_write_one_log_and_one_best_and_name_their_own_bad_clips(tmp_path):
    (code0, text0, _), (code1, text1, _) = launch(tmp_path, "nan")
    assert code0 and code1
    assert "at step 3: loss not finite for clips: ['clip13']" in text0
    assert "clips: [] and 1 clip(s) of other processes" in text1
    lines = [json.loads(x) for x in (tmp_path / "logs/metrics.jsonl").read_text().splitlines()]
    assert [(x["kind"], x["step"]) for x in lines] == [("train", 2), ("eval", 3)]
    for folder in ("best", "last"):
        assert [p.name for p in (tmp_path / folder).iterdir()] == ["3"]
