"""Logs of a run: logs/metrics.jsonl (one object per line) and TensorBoard events.

Lines are appended. An object store cannot do that: there the log lies in parts of LINES lines,
logs/metrics-00000.jsonl and so on, and only the last part is written anew. A resumed run begins
another part, so it reads none. `read_log` knows both.

A resumed run first writes {"resumed_from": step}: lines of later steps above it belong to the part
that was lost and are written again below.
"""

import json
import time
from collections.abc import Mapping

import jax
from etils import epath

from vos_jax.files import is_remote, named_errors

JSONL = "metrics.jsonl"
PART = "metrics-{:05}.jsonl"
LINES = 50  # of a part


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
        if self._remote:
            self._part, self._lines = len(_parts(self._folder)), []
        else:
            self._file = open(self._folder / JSONL, "a", encoding="utf-8")
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
            self._lines.append(text)
            (self._folder / PART.format(self._part)).write_text("".join(self._lines))
            if len(self._lines) == LINES:
                self._part, self._lines = self._part + 1, []
        else:
            with named_errors(self._folder / JSONL):
                self._file.write(text)
                self._file.flush()


def read_log(workdir: str | epath.Path) -> list[dict]:
    """The lines of a run's log in the order in which they were written.

    Raises FileNotFoundError where there is none, ValueError with file and line for one that is no
    JSON, but for the last line of a file, which a run that was killed may have left unfinished.
    """
    folder = epath.Path(workdir) / "logs"
    whole = [folder / JSONL] if (folder / JSONL).exists() else []
    files = [*whole, *_parts(folder)]
    if not files:
        raise FileNotFoundError(f"{workdir} has no log: expected logs/{JSONL}; is it a workdir?")
    return [line for file in files for line in _read(file)]


def _parts(folder: epath.Path) -> list[epath.Path]:
    return sorted(folder.glob("metrics-*.jsonl"))


def _read(file: epath.Path) -> list[dict]:
    lines, found = file.read_text().splitlines(), []
    for number, line in enumerate(lines, 1):
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError as error:
            if number < len(lines):
                raise ValueError(f"{file}, line {number}: expected JSON, {error}") from None
    return found


def _event_writer(folder: epath.Path):
    import tensorboardX

    try:
        return tensorboardX.SummaryWriter(logdir=str(folder))
    except ImportError as error:
        print(f"no TensorBoard events, only {folder / JSONL}: {error}")
        return None
