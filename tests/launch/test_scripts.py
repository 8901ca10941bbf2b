"""The start scripts: clean shell, and what they start with which arguments and environment."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

LAUNCH = Path(__file__).parents[2] / "launch"
SCRIPTS = sorted(path for path in LAUNCH.iterdir() if path.suffix != ".md")
LAST = 'python -m vos_jax.main "$@"'
STAND_IN = f"""#!{sys.executable}
import json, os, sys
print(json.dumps([os.path.basename(sys.argv[0]), *sys.argv[1:]]))
print(json.dumps(dict(os.environ)))
"""
ARGUMENTS = ["--config", "feelvos:paper", "--config.data.dir=a folder", "--workdir=$HOME *"]


@pytest.fixture
def start(tmp_path):
    """start(script, **environment): exit code, command and environment of what it starts, stderr.

    The clone is a folder with the scripts alone, python and srun are stand-ins.
    """
    shutil.copytree(LAUNCH, tmp_path / "the clone/launch")
    for name in ("python", "srun"):
        (tmp_path / "bin").mkdir(exist_ok=True)
        (tmp_path / "bin" / name).write_text(STAND_IN)
        (tmp_path / "bin" / name).chmod(0o755)

    def started(script, **environment):
        done = subprocess.run(
            ["bash", tmp_path / "the clone/launch" / script, *ARGUMENTS],
            env={"PATH": f"{tmp_path}/bin:{os.environ['PATH']}", "HOME": "/h", **environment},
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        return done.returncode, *map(json.loads, done.stdout.splitlines()), done.stderr

    return started


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_script_is_clean_strict_and_short_and_ends_in_the_one_command(script):
    here = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    shellcheck = shutil.which("shellcheck", path=here)
    assert shellcheck, "shellcheck is missing: pip install -r requirements-dev.txt"
    checked = subprocess.run([shellcheck, script], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout
    lines = script.read_text().splitlines()
    assert lines[0] == "#!/usr/bin/env bash" and "set -euo pipefail" in lines
    assert len(lines) <= 30
    assert lines[-1].startswith("exec ") and lines[-1].endswith(LAST)
    assert os.access(script, os.X_OK) is (script.suffix == ".sh")  # sbatch reads its script


@pytest.mark.parametrize(
    ("script", "given", "set_here"),
    [
        ("local.sh", {}, {}),
        (
            "gpu_host.sh",
            {"JAX_COORDINATOR_ADDRESS": "a:1", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "0"},
            {},
        ),
        ("tpu_vm.sh", {}, {"VOS_JAX_DISTRIBUTED": "1"}),
        ("gke_xpk.sh", {}, {"VOS_JAX_DISTRIBUTED": "1"}),
    ],
)
def test_arguments_reach_the_command_as_they_are(start, tmp_path, script, given, set_here):
    code, command, environment, _ = start(script, PYTHONPATH="mine", **given)
    assert code == 0
    assert command == ["python", "-m", "vos_jax.main", *ARGUMENTS]
    assert environment["PYTHONPATH"] == f"{tmp_path}/the clone:mine"
    expected = given | set_here
    assert {name: environment.get(name) for name in expected} == expected
    assert ("VOS_JAX_DISTRIBUTED" in environment) is ("VOS_JAX_DISTRIBUTED" in set_here)


def test_slurm_starts_the_command_as_a_step_of_the_folder_it_was_submitted_in(start, tmp_path):
    code, command, environment, _ = start("slurm.sbatch", SLURM_SUBMIT_DIR=f"{tmp_path}/the clone")
    assert code == 0
    assert command == ["srun", "--kill-on-bad-exit=1", "python", "-m", "vos_jax.main", *ARGUMENTS]
    assert environment["PYTHONPATH"] == f"{tmp_path}/the clone"
    asked = [x for x in (LAUNCH / "slurm.sbatch").read_text().split() if x.startswith("--")]
    assert {"--signal=TERM@300", "--requeue"} <= set(asked)
    code, said = start("slurm.sbatch")
    assert code == 1 and "SLURM_SUBMIT_DIR: submit this script with sbatch" in said


def test_a_clone_with_a_venv_uses_it(start, tmp_path):
    own = tmp_path / "the clone/.venv/bin"
    own.mkdir(parents=True)
    shutil.copy(tmp_path / "bin/python", own)
    assert start("local.sh")[2]["PATH"].startswith(f"{own}:")


def test_a_gpu_host_without_its_number_is_told_what_is_missing(start):
    code, said = start("gpu_host.sh", JAX_COORDINATOR_ADDRESS="a:1", JAX_NUM_PROCESSES="2")
    assert code == 1 and "JAX_PROCESS_ID: which of them this one is, from 0" in said
