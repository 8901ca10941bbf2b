"""Examples made by worker processes: the same ones as by threads, without their common lock.

A worker is a Python of its own that imports neither JAX nor the program that started it, and
TensorFlow only to read from gs://. It is handed the opened sources, is asked for one example after
another through a pipe, and writes the arrays into memory that both processes see. It has no state:
it may be killed at any time, and ends by itself when the other end of its pipe is closed, however
that came about. Signals that end a run are meant for the process that saves it: workers do not get
them.
"""

import contextlib
import mmap
import os
import pickle
import queue
import signal
import subprocess
import sys
import tempfile
import traceback
from multiprocessing.connection import Connection, Pipe
from typing import Any

import cv2
import numpy as np

from vos_jax.data.example import ExampleSequence, blank, packed

SLOTS = 2  # examples that a worker has room for: one is fetched while the next is made
ALIGNMENT = 64  # bytes
NOT_FOR_WORKERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
PROGRAM = """
import sys
sys.path[:] = {path!r}
from vos_jax.data.processes import work
work({pipe}, {memory})
"""


class WorkerProcesses:
    """The sequence of `examples`, made by `count` processes, for as many threads to ask for.

    A context: leaving it ends the processes. transport: see example.py.
    """

    def __init__(self, examples: ExampleSequence, count: int, transport: str):
        self._columns = blank(examples, transport)
        orders = pickle.dumps((examples, transport))
        self._workers = [_Worker(orders, self._columns) for _ in range(count)]
        self._free: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
        for worker in self._workers:
            self._free.put(worker)

    def __enter__(self) -> "WorkerProcesses":
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            worker.process.kill()
        for worker in self._workers:
            worker.process.wait()

    @property
    def bad_clips(self) -> int:
        """Files that could not be read so far."""
        return sum(worker.bad_clips for worker in self._workers)

    def columns(self) -> dict[str, Any]:
        """An empty example, packed."""
        return self._columns

    def example(self, i: int) -> dict:
        """Training example i, packed. Raises what making it raised; RuntimeError where its process
        has ended.
        """
        worker = self._free.get()
        try:
            slot, name = worker.ask(i)
        finally:
            self._free.put(worker)  # one that has ended, too: it says so again
        return worker.fetch(slot) | {"name": name}


class _Worker:
    """One process, its pipe and its part of the memory."""

    def __init__(self, orders: bytes, columns: dict[str, Any]):
        self.bad_clips = 0
        size = SLOTS * _slot_size(columns)
        memory = _shared_memory(size)
        self._connection, theirs = Pipe()
        self.process = _started(theirs.fileno(), memory)
        theirs.close()
        self._views = _views(mmap.mmap(memory, size), columns)
        os.close(memory)
        self._orders: bytes | None = orders  # until it has them
        self._slots: queue.SimpleQueue[int] = queue.SimpleQueue()
        for slot in range(SLOTS):
            self._slots.put(slot)

    def ask(self, i: int) -> tuple[int, bytes]:
        """Have example i made; where it lies, and its name. By one thread at a time."""
        slot = self._slots.get()
        try:
            if self._orders is not None:
                self._connection.send_bytes(self._orders)
                self._orders = None
            self._connection.send((i, slot))
            name, error, self.bad_clips = self._connection.recv()
        except (EOFError, ConnectionError):
            name, error = b"", RuntimeError(self._obituary(i))
        if error is not None:
            self._slots.put(slot)
            raise error
        return slot, name

    def fetch(self, slot: int) -> dict[str, np.ndarray]:
        """The arrays in a slot, which is free then."""
        found = {name: view.copy() for name, view in self._views[slot].items()}
        self._slots.put(slot)
        return found

    def _obituary(self, i: int) -> str:
        code = self.process.wait()
        how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        return (
            f"a worker process {how} before example {i} was made; if memory ran out, lower"
            " config.data.processes (0: threads of one process)"
        )


def work(pipe: int, memory: int) -> None:
    """What a worker process does until its pipe is closed; the arguments are file descriptors."""
    connection = Connection(pipe)
    cv2.setNumThreads(0)  # the processes are the parallelism
    with contextlib.suppress(EOFError, ConnectionError):
        examples, transport = pickle.loads(connection.recv_bytes())
        views = _views(mmap.mmap(memory, 0), blank(examples, transport))
        while True:
            i, slot = connection.recv()
            name, error = b"", None
            try:
                example = packed(examples.example(i), transport)
                name = example["name"]
                for column, view in views[slot].items():
                    view[...] = example[column]
            except Exception as found:
                error = _portable(found)
            connection.send((name, error, examples.bad_clips))


def _started(pipe: int, memory: int) -> subprocess.Popen:
    """A worker, to which no signal comes that is meant to end or interrupt the run."""
    program = PROGRAM.format(path=sys.path, pipe=pipe, memory=memory)
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, NOT_FOR_WORKERS)  # is inherited
    try:
        return subprocess.Popen(
            [sys.executable, "-c", program], pass_fds=(pipe, memory), stdin=subprocess.DEVNULL
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def _shared_memory(size: int) -> int:
    """A file descriptor of memory without a name, so that nothing is left of it after a crash.

    It is not of /dev/shm, which holds 64 MB in many containers.
    """
    if hasattr(os, "memfd_create"):  # Linux
        descriptor = os.memfd_create("vos_jax examples")
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.ftruncate(descriptor, size)
    return descriptor


def _arrays(columns: dict[str, Any]) -> dict[str, np.ndarray]:
    return {name: x for name, x in columns.items() if isinstance(x, np.ndarray)}


def _room(array: np.ndarray) -> int:
    return -(-array.nbytes // ALIGNMENT) * ALIGNMENT


def _slot_size(columns: dict[str, Any]) -> int:
    return sum(map(_room, _arrays(columns).values()))


def _views(memory: mmap.mmap, columns: dict[str, Any]) -> list[dict[str, np.ndarray]]:
    """The arrays of every slot, in memory."""
    slots, start = [], 0
    for _ in range(SLOTS):
        slot = {}
        for name, x in _arrays(columns).items():
            slot[name] = np.ndarray(x.shape, x.dtype, memory, start)
            start += _room(x)
        slots.append(slot)
    return slots


def _portable(error: Exception) -> Exception:
    """The error, or one with its traceback where it does not survive the way to another process."""
    try:
        pickle.loads(pickle.dumps(error))
        return error
    except Exception:
        return RuntimeError("".join(traceback.format_exception(error)))
