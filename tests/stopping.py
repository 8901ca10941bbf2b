"""Runs of `main` that are told to stop in the middle, and what their logs say."""

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vos_jax import main


def stopped_by_sigterm(monkeypatch: pytest.MonkeyPatch, run: Callable[[], None]) -> None:
    """Call `run`, which trains; SIGTERM arrives while it fetches its second batch, and ends it."""
    batches = main.batches

    def interrupted(*args, **kwargs):
        for i, batch in enumerate(batches(*args, **kwargs)):
            if i == 1:
                signal.raise_signal(signal.SIGTERM)
            yield batch

    with monkeypatch.context() as patch:
        patch.setattr(main, "batches", interrupted)
        with pytest.raises(SystemExit) as stop:
            run()
    assert stop.value.code == 128 + signal.SIGTERM


def trained_steps(workdir: Path) -> list[dict[str, Any]]:
    """The lines of a run's log about training, one for each step."""
    lines = [json.loads(x) for x in (workdir / "logs/metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line.get("kind") == "train"]
