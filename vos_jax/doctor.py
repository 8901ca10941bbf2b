"""Is this machine ready: versions, devices, folders, and a tiny clip that is segmented.

    python -m vos_jax.doctor [--data DIR] [--workdir DIR]

--data may be given several times: each folder is checked as by data_check. --workdir: a folder that
runs are to be written to. The last line says that all is well, or what is wrong and how to mend it;
then the command ends with 1.

Example: vos-jax doctor --workdir runs
"""

import importlib.metadata
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import numpy as np
from absl import flags

import vos_jax
from vos_jax.command_line import new_flags, parse_flags, path_flag, paths_flag, run_command
from vos_jax.compilation_cache import keep_compiled_programs
from vos_jax.data.synthetic import synthetic_videos
from vos_jax.data_checks.layouts import check
from vos_jax.files import is_remote
from vos_jax.inference.streaming import VideoSegmenter
from vos_jax.systems.build import build_model, init_variables
from vos_jax.systems.table import SYSTEMS
from vos_jax.train.partition import devices_line

PYTHONS = (3, 11), (3, 13)
# distributions, of which one of each line is needed
PACKAGES = (
    ("jax",),
    ("jaxlib",),
    ("flax",),
    ("optax",),
    ("orbax-checkpoint",),
    ("tensorflow-cpu", "tensorflow"),
    ("tensorflow-datasets",),
    ("opencv-python-headless", "opencv-python"),
    ("pycocotools",),
)
LEAST_FREE = 2e9  # bytes: a few checkpoints
SYSTEM, FRAMES = "feelvos", 3  # of the self-test


class Wrong(RuntimeError):
    """What is wrong and how to mend it, in a line."""


def versions() -> str:
    """Of Python and of what vos_jax stands on; Wrong where one is missing or too old."""
    found, missing = [], []
    for names in PACKAGES:
        known = {name: version for name in names if (version := _version(name))}
        found += [f"{name} {version}" for name, version in list(known.items())[:1]]
        missing += [] if known else [names[0]]
    line = f"vos_jax {vos_jax.__version__}, Python {platform.python_version()}, {', '.join(found)}"
    if missing:
        raise Wrong(f"{line}; missing: {', '.join(missing)}: pip install {' '.join(missing)}")
    if not PYTHONS[0] <= sys.version_info[:2] <= PYTHONS[1]:
        first, last = (".".join(map(str, version)) for version in PYTHONS)
        raise Wrong(f"{line}; expected Python {first} to {last}: make the environment with one")
    return line


def devices() -> str:
    """What JAX computes on, and its memory; Wrong where JAX finds no device."""
    try:
        line = devices_line(None)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().splitlines()[:1]
        raise Wrong(f"JAX finds no device: {''.join(reason)}; unset JAX_PLATFORMS") from None
    stats = jax.local_devices()[0].memory_stats() or {}
    if limit := stats.get("bytes_limit"):
        line += f", {limit / 1e9:.1f} GB each"
    line += f"; {os.cpu_count()} cores{_memory()}"
    if jax.default_backend() == "cpu" and shutil.which("nvidia-smi"):
        line += "; there is an NVIDIA driver, but JAX sees no GPU: pip install 'jax[cuda13]'"
    return line


def compiled_programs() -> str:
    """Where compiled programs are kept for later runs."""
    keep_compiled_programs()
    folder = jax.config.jax_compilation_cache_dir
    if not folder or not jax.config.jax_enable_compilation_cache:
        return "compiled programs are not kept, every run compiles again"
    if is_remote(folder):
        return f"compiled programs are kept in {folder}"
    sizes = [file.stat().st_size for file in Path(folder).glob("*") if file.is_file()]
    return f"compiled programs are kept in {folder}: {len(sizes)} files, {sum(sizes) / 1e6:.0f} MB"


def data(folder: str) -> str:
    """What a data folder holds; Wrong with the first problem in it."""
    found = check(folder)
    line = f"data {folder}: {found.counts()}"
    if found.problems:
        raise Wrong(f"{line}; {found.first_problem()} (vos-jax data-check {folder} lists all)")
    return line


def workdir(folder: str) -> str:
    """Whether runs can be written to a folder, which is left as it was."""
    if is_remote(folder):
        return f"workdir {folder}: remote, not tried"
    place = Path(os.path.abspath(folder))
    there = next(parent for parent in (place, *place.parents) if parent.exists())
    try:
        with tempfile.NamedTemporaryFile(dir=there) as file:
            file.write(b"x")
    except OSError as error:
        raise Wrong(f"workdir {folder}: cannot be written to: {error}; name another") from None
    free = shutil.disk_usage(there).free
    line = f"workdir {folder}: can be written to, {free / 1e9:.1f} GB free"
    if free < LEAST_FREE:
        raise Wrong(f"{line}; make room for checkpoints, at least {LEAST_FREE / 1e9:.0f} GB")
    return line


def self_test() -> str:
    """Segments a clip with a tiny network of random weights; Wrong where masks are no masks."""
    start = time.perf_counter()
    model = build_model({"name": SYSTEM, **SYSTEMS[SYSTEM].tiny})
    segmenter = VideoSegmenter(model, init_variables(model, jax.random.key(0)))
    video = synthetic_videos("test", 1, FRAMES)[0]
    first = video.mask(0)
    masks = [segmenter.step(video.frame(0), first)]
    masks += [segmenter.step(video.frame(t)) for t in range(1, FRAMES)]
    known = {0, *np.unique(first).tolist()}
    for t, mask in enumerate(masks):
        found = set(np.unique(mask).tolist())
        if mask.shape != first.shape or mask.dtype != np.uint8 or not found <= known:
            raise Wrong(
                f"self-test: frame {t} has a mask {mask.dtype} {mask.shape} with ids"
                f" {sorted(found)}, expected uint8 {first.shape} with some of {sorted(known)}:"
                " this build of jax computes wrongly here; try another version"
            )
    seconds = time.perf_counter() - start
    return f"self-test: {FRAMES} frames segmented as they should be, {seconds:.1f} s"


def parse(argv: Sequence[str]) -> flags.FlagValues:
    """The command line as flag values; raises flags.Error where it is wrong."""
    values = new_flags()
    paths_flag(values, "data", "a data folder to check; may be given several times")
    path_flag(values, "workdir", "a folder that runs are to be written to", "runs")
    parse_flags(values, argv)
    return values


def run(args: flags.FlagValues) -> str:
    """Do what the command line says; ValueError with what is wrong."""
    checks: list[Callable[[], str]] = [versions, devices, compiled_programs]
    checks += [lambda folder=folder: data(folder) for folder in args.data]
    checks += [lambda: workdir(args.workdir), self_test]
    wrong = []
    for look in checks:
        try:
            line = look()
        except (RuntimeError, ValueError, OSError) as error:  # the first also XLA's
            line = f"WRONG: {error}"
            wrong.append(str(error))
        if not args.quiet:
            print(line, flush=True)
    if wrong:
        raise ValueError(f"{len(wrong)} of {len(checks)} checks failed:\n" + "\n".join(wrong))
    return "all is well"


def main(argv: Sequence[str]) -> None:
    """The command; ends with 1 where something is wrong."""
    run_command(argv, __doc__, parse, run)


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _memory() -> str:
    """Memory of the machine, where the system tells it."""
    try:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return ""
    return f", {total / 1e9:.1f} GB of memory"


if __name__ == "__main__":
    main(sys.argv)
