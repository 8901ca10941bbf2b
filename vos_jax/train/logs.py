"""Logs of a run: logs/metrics.jsonl (one object per line) and TensorBoard events.

Lines are appended. A resumed run first writes {"resumed_from": step}: lines of later steps above
it belong to the part that was lost and are written again below.
"""

import json
import time
from collections.abc import Mapping

import jax
from etils import epath

from vos_jax.files import is_remote, named_errors

JSONL = "metrics.jsonl"


class Logger:
    """Writes scalars from process 0; on other processes it does nothing."""

    def __init__(self, workdir: str | epath.Path, tensorboard: bool = True):
        self._folder = epath.Path(workdir) / "logs"
        self._enabled = jax.process_index() == 0
        self._remote = is_remote(self._folder)
        self._file = self._events = None
        if not self._enabled:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / JSONL
        if self._remote:  # an object store cannot append: the whole log is written anew
            self._text = path.read_text() if path.exists() else ""
        else:
            self._file = open(path, "a", encoding="utf-8")
        if tensorboard:
            self._events = _event_writer(self._folder)

    def resumed(self, step: int) -> None:
        """Notes that the run continues from a checkpoint of this step."""
        self._write({"resumed_from": int(step)})

    def scalars(self, kind: str, step: int, values: Mapping[str, float]) -> None:
        """One line {"kind", "step", "time", name: value...}; kind is "train" or "eval"."""
        plain = {name: float(value) for name, value in values.items()}
        self._write({"kind": kind, "step": int(step), **plain})
        if self._events is not None:
            for name, value in plain.items():
                self._events.add_scalar(f"{kind}/{name}", value, int(step))
            self._events.flush()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        if self._events is not None:
            self._events.close()
        self._enabled = False

    def _write(self, line: dict) -> None:
        if not self._enabled:
            return
        text = json.dumps({**line, "time": round(time.time(), 3)}) + "\n"
        if self._remote:
            self._text += text
            (self._folder / JSONL).write_text(self._text)
        else:
            with named_errors(self._folder / JSONL):
                self._file.write(text)
                self._file.flush()


def _event_writer(folder: epath.Path):
    import tensorboardX

    try:
        return tensorboardX.SummaryWriter(logdir=str(folder))
    except ImportError as error:
        print(f"no TensorBoard events, only {folder / JSONL}: {error}")
        return None
