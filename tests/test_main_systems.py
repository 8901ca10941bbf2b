"""Every system but FEELVOS (test_main) from the command line to checkpoints, scores and masks."""

import json
import signal
from pathlib import Path

import numpy as np
import orbax.checkpoint as ocp
import pytest
from flax import traverse_util

from tests.shrunk import quick_compilation
from vos_jax import main as command
from vos_jax.data.masks import read_mask

CONFIG = Path(__file__).with_name("shrunk_systems.py")


@pytest.fixture(scope="module", autouse=True)
def quickly():
    with quick_compilation():
        yield


# parameters that every step moves
MOVED = {
    "cfbi": ("ensembler/stage1_layer1/conv1/conv/kernel", "background_bias"),
    "cfbi_plus": ("ensembler/stage1_layer1/conv1/conv/kernel", "background_bias"),
    "stm": ("memory_encoder/mask", "memory_encoder/heads/key/kernel", "decoder/pred2/kernel"),
}


@pytest.mark.parametrize("system", MOVED)
def test_a_run_trains_stops_goes_on_where_it_was_and_is_scored(system, tmp_path, monkeypatch):
    call = ["main", f"--config={CONFIG}:{system}", f"--workdir={tmp_path}"]
    batches = command.batches

    def stopped(*args, **kwargs):
        for i, batch in enumerate(batches(*args, **kwargs)):
            if i == 1:
                signal.raise_signal(signal.SIGTERM)
            yield batch

    with monkeypatch.context() as patch:
        patch.setattr(command, "batches", stopped)
        with pytest.raises(SystemExit) as stop:
            command.main([*call, "--mode=train"])
    assert stop.value.code == 128 + signal.SIGTERM
    assert [step.name for step in (tmp_path / "last").iterdir()] == ["2"]
    before = _params(tmp_path / "last/2")
    command.main(call)

    lines = (tmp_path / "logs/metrics.jsonl").read_text().splitlines()
    lines = [json.loads(line) for line in lines]
    trained = [line for line in lines if line.get("kind") == "train"]
    assert [line["step"] for line in trained] == [1, 2, 3, 4]
    assert all(np.isfinite(line["loss"]) and line["gradient_norm"] > 0 for line in trained)
    after = _params(tmp_path / "last/4")
    for path in MOVED[system]:
        assert not np.array_equal(before[path], after[path]), path

    results = tmp_path / "results/step_4"
    scores = json.loads((results / "scores.json").read_text())["metrics"]
    assert 0 <= scores["J&F-Mean"] <= 1
    masks = sorted((results / "masks/test-0000").iterdir())
    assert [file.name for file in masks] == [f"{t:05d}.png" for t in range(4)]
    assert read_mask(masks[-1]).shape == (96, 160)


def _params(step):
    with ocp.PyTreeCheckpointer() as checkpointer:
        params = checkpointer.restore(step / "variables")["params"]
    return traverse_util.flatten_dict(params, sep="/")
