"""Shared by all tests: a persistent compilation cache and a tiny FEELVOS."""

import os
import tempfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# Workers of pytest-xdist disturb each other least when each keeps to cores of its own.
WORKER = os.environ.get("PYTEST_XDIST_WORKER")
if WORKER is not None and hasattr(os, "sched_setaffinity"):
    cores, count = sorted(os.sched_getaffinity(0)), int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    os.sched_setaffinity(0, cores[int(WORKER.removeprefix("gw")) :: count] or cores)

CACHE = Path(tempfile.gettempdir()) / "vos_jax_test_cache"
# In the environment, so that tests which start a process share it too.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")

import numpy as np  # noqa: E402
import pytest  # noqa: E402

from tests.tiny import tiny_system, unload_programs  # noqa: E402


@pytest.fixture(scope="session")
def tiny_feelvos():
    """A FEELVOS small enough to compile in seconds, and lively variables."""
    return tiny_system("feelvos")


@pytest.fixture(scope="session")
def clip():
    """Six frames 40x56 with two textured rectangles that move, labels 1 and 2, uint8."""
    rng = np.random.default_rng(0)
    frames = np.repeat(rng.integers(0, 255, (1, 40, 56, 3)), 6, axis=0).astype(np.uint8)
    masks = np.zeros((6, 40, 56), np.uint8)
    texture = rng.integers(0, 255, (2, 14, 16, 3)).astype(np.uint8)
    for t in range(6):
        for k, (y, x) in enumerate([(4 + 2 * t, 3 + 3 * t), (20 - t, 36 - 2 * t)]):
            frames[t, y : y + 14, x : x + 16] = texture[k]
            masks[t, y : y + 14, x : x + 16] = k + 1
    return frames, masks


@pytest.fixture(scope="module", autouse=True)
def loaded_programs():
    """The programs that a module has compiled go with it.

    Each takes hundreds of memory maps, and where a process has 65530, Linux refuses more: then
    compiling ends in a segmentation fault.
    """
    yield
    unload_programs()


def pytest_collection_modifyitems(items):
    """Systems first: their files take longest, and no worker should begin one at the end."""
    items.sort(key=lambda item: "systems" not in item.path.parts)
