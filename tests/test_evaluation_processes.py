import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np

from tests.eight_devices import PATIENCE
from tests.evaluation_processes import clips, run
from tests.tiny import quick_compilation

ROOT = Path(__file__).parents[1]


def launch(folder, case, processes=2, devices=4):
    """[(exit code, stderr)] of processes that evaluate together."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    environment = dict(os.environ, XLA_FLAGS=flags, JAX_PLATFORMS="cpu", PYTHONPATH=str(ROOT))
    command = [sys.executable, "-m", "tests.evaluation_processes"]
    started = [
        subprocess.Popen(
            [*command, str(process), str(processes), port, str(folder), case],
            env=environment,
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for process in range(processes)
    ]
    try:
        said = [process.communicate(timeout=PATIENCE)[1] for process in started]
    finally:
        for process in started:
            process.kill()
    return [(process.returncode, text) for process, text in zip(started, said, strict=True)]


def numbers(content):
    """Every number of nested results, in their order."""
    if isinstance(content, dict):
        return [x for value in content.values() for x in numbers(value)]
    return [content] if isinstance(content, int | float) else []


def test_two_processes_with_four_devices_give_the_scores_of_one_device(tmp_path):
    for code, said in launch(tmp_path, "scores"):
        assert code == 0, said[-3000:]
    parts = [json.loads((tmp_path / f"begun_{i}.json").read_text()) for i in (0, 1)]
    assert [part["devices"] for part in parts] == [4, 4]
    assert all(part["begun"] for part in parts)
    assert sorted(parts[0]["begun"] + parts[1]["begun"]) == sorted(v.name for v in clips())
    assert parts[0]["metrics"] == parts[1]["metrics"]

    with quick_compilation():
        run(tmp_path / "alone", begun := [])
    assert sorted(begun) == sorted(v.name for v in clips())
    for file in ("scores.json", "floors/copy/scores.json"):
        together, alone = (
            json.loads((tmp_path / folder / file).read_text()) for folder in ("results", "alone")
        )
        assert together["settings"] == alone["settings"]
        assert list(together["per_object"]) == list(alone["per_object"])
        # a label may flip where two of them tie within rounding
        np.testing.assert_allclose(numbers(together), numbers(alone), atol=2e-3)
    for video in clips():
        assert len(list((tmp_path / "results/masks" / video.name).iterdir())) == len(video)
        assert (tmp_path / f"results/overlays/{video.name}.gif").exists()


def test_an_error_on_one_process_ends_all_of_them_with_its_message(tmp_path):
    (code0, said0), (code1, said1) = launch(tmp_path, "failure", devices=1)
    assert code0 and code1
    assert "ValueError: evaluation failed on process 1: OSError: disk on fire" in said0
    assert "OSError: disk on fire" in said1
