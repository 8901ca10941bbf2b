"""Runs a module of the tests in a process of its own that has 8 fake CPU devices."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PATIENCE = 1200  # seconds until a process of the tests counts as hanging, on the slowest machine


def environment() -> dict[str, str]:
    """The present environment, but with 8 fake CPU devices; other flags of XLA stay."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
    return dict(os.environ, XLA_FLAGS=flags, JAX_PLATFORMS="cpu", PYTHONPATH=str(ROOT))


def run_on_eight_devices(module: str, *arguments: str | os.PathLike) -> str:
    """What `python -m module arguments` prints; its errors are the failing test's message."""
    done = subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments)],
        env=environment(),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout
