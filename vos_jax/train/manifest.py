"""The manifest of a run: what would be needed to repeat it."""

import datetime
import importlib.metadata
import pathlib
import platform
import subprocess
import sys
from typing import Any

import jax

from vos_jax.checkpoint_folder import plain_config

PACKAGES = (
    "jax jaxlib flax optax orbax-checkpoint numpy scipy tensorflow tensorflow-cpu "
    "tensorflow-datasets opencv-python-headless opencv-python pillow ml-collections"
).split()


def build_manifest(config: Any) -> dict:
    """Config, package versions, git revision, devices, command line and start time, as JSON.

    Absent packages and an absent repository give no entry and None.
    """
    devices = jax.devices()
    return {
        "config": plain_config(config),
        "command": _command(),
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "git": git_revision(),
        "python": platform.python_version(),
        "packages": _versions(),
        "platform": devices[0].platform,
        "device_kind": devices[0].device_kind,
        "devices": len(devices),
        "processes": jax.process_count(),
    }


def _command() -> list[str]:
    """What was typed: the installed vos-jax, or a module."""
    program = pathlib.Path(sys.argv[0]).stem
    called = ["vos-jax"] if program == "vos-jax" else ["python", "-m", f"vos_jax.{program}"]
    return [*called, *sys.argv[1:]]


def git_revision() -> str | None:
    """Commit of the source tree this package runs from, "-dirty" if changed; None outside git."""
    folder = pathlib.Path(__file__).resolve().parent
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
