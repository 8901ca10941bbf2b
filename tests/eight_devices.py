"""Runs a module of the tests in a process of its own that has 8 fake CPU devices."""

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PATIENCE = 1200  # seconds until a process of the tests counts as hanging, on the slowest machine


@contextlib.contextmanager
def eight_devices(module: str, *arguments: str | os.PathLike) -> Iterator[Callable[[], str]]:
    """`python -m module arguments`, which works while other tests run; other flags of XLA stay.

    Call what it gives to wait for its end and get what it printed; its errors are then the failing
    test's message.
    """
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
    environment = dict(os.environ, XLA_FLAGS=flags, JAX_PLATFORMS="cpu", PYTHONPATH=str(ROOT))
    command = [sys.executable, "-m", module, *map(str, arguments)]
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        process = subprocess.Popen(command, env=environment, cwd=ROOT, stdout=out, stderr=err)

        def finished() -> str:
            code = process.wait(timeout=PATIENCE)
            for file in (out, err):
                file.seek(0)
            assert code == 0, err.read()[-3000:]
            return out.read()

        try:
            yield finished
        finally:
            process.kill()
            process.wait()


def run_on_eight_devices(module: str, *arguments: str | os.PathLike) -> str:
    """The same, waiting for its end; what it printed."""
    with eight_devices(module, *arguments) as finished:
        return finished()
