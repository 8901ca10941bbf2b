"""A line for the user where a process ends without a chance to say one itself."""

import contextlib
import subprocess
from collections.abc import Iterator

import jax

_WAIT = 'read -r _ || printf "%s\\n" "$0" >&2'  # a line in: all is well; the end of input: a death
_WAITING: list[subprocess.Popen] = []


@contextlib.contextmanager
def last_words(message: str) -> Iterator[None]:
    """Prints `message` to stderr, last of all, if the process is killed in here.

    JAX aborts a process that has lost another one of its run, with a trace of its own and past
    Python. So a shell waits for the process instead: the pipe between them closes when it dies.
    """
    # A session of its own: the signals of a terminal are for the process alone.
    command = ["/bin/sh", "-c", _WAIT, message]
    shell = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
    try:
        yield
    except jax.errors.JaxRuntimeError:  # a collective may fail before JAX aborts
        _WAITING.append(shell)  # or the pipe would be closed now
        raise
    finally:
        if shell not in _WAITING:
            shell.communicate(b"\n")
