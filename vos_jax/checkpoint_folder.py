"""A folder with a model's variables and the config that describes the model.

    FOLDER/variables         params and batch_stats, written by Orbax
    FOLDER/config.json       the config, of which the section model is built
    FOLDER/manifest.json     where the variables come from

vos_jax.convert writes such folders, and every step of a run's workdir is one (its config.json lies
in the workdir). Paths may be remote (etils.epath).
"""

import json
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from vos_jax.files import write_whole
from vos_jax.notes import note


def export_variables(
    folder: str | epath.Path, variables: dict, config: Any, manifest: dict, overwrite: bool = False
) -> epath.Path:
    """Writes {"params", "batch_stats"} as a folder that import_variables reads; returns it.

    Refuses a folder that is not empty (ValueError) unless overwrite, which replaces variables,
    config.json and manifest.json and leaves other files alone.
    """
    folder = absolute(folder)
    if folder.exists() and any(folder.iterdir()) and not overwrite:
        raise ValueError(f"{folder} exists and is not empty; give another folder")
    plain = plain_config(config)
    folder.mkdir(parents=True, exist_ok=True)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(folder / "variables", variables, force=overwrite)
    if jax.process_index() == 0:
        write_json(folder / "config.json", plain)
        write_json(folder / "manifest.json", manifest)
    return folder


def import_variables(path: str | epath.Path) -> tuple[dict, dict]:
    """Variables as numpy arrays, and the config dict, of a checkpoint.

    path: a folder of export_variables, a workdir (its best step, else its last) or a step
    folder. Where the run kept averaged parameters these are they. A step of a workdir that cannot
    be read is skipped, and the user is told. Raises FileNotFoundError, or ValueError where nothing
    can be read.
    """
    path = absolute(path)
    jax.devices()  # if there are none, that is not the checkpoint's fault
    steps = _steps(path)
    for place, folder in enumerate(steps):
        config_path = _config_path(path, folder)
        try:
            return _read_variables(folder / "variables"), read_json(config_path)
        except UnreadableVariables as error:
            if place == len(steps) - 1:
                raise
            note(f"{error}; skipped")
    raise AssertionError("there is at least one step")


def _config_path(path: epath.Path, folder: epath.Path) -> epath.Path:
    for home in (folder, folder.parent, folder.parent.parent):
        if (home / "config.json").exists():
            return home / "config.json"
    raise FileNotFoundError(
        f"{path}: no config.json in {folder} or the two folders above it, so the model of "
        "these variables is unknown; point to the whole workdir or exported folder"
    )


class UnreadableVariables(ValueError):
    """The variables of a checkpoint are damaged."""


def _read_variables(folder: epath.Path) -> dict:
    """All arrays as numpy; UnreadableVariables names the folder where they cannot be read."""
    try:
        with ocp.PyTreeCheckpointer() as checkpointer:
            stored = metadata_tree(checkpointer.metadata(folder))
            as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), stored)
            return checkpointer.restore(folder, restore_args=as_numpy)
    except Exception as error:  # of Orbax, TensorStore and what they stand on: any kind
        raise UnreadableVariables(
            f"{folder}: the variables cannot be read ({first_line(error)}); the checkpoint is"
            " damaged: use another step, or copy or convert it again"
        ) from error


def _steps(path: epath.Path) -> list[epath.Path]:
    """The folders that may hold the variables `path` means, the first choice first."""
    if not path.exists():
        raise FileNotFoundError(f"checkpoint {path} does not exist")
    if (path / "variables").exists():
        return [path]
    whole = []
    for folder in (path / "best", path / "last", path):
        for step in step_folders(folder):
            reason = damage(step, ["variables"])
            if reason is None:
                whole.append(step)
            else:
                note(f"{step} is skipped: it {reason}")
    if whole:
        return whole
    found = sorted(child.name for child in path.iterdir())[:8] if path.is_dir() else "a file"
    raise FileNotFoundError(
        f"{path} is no checkpoint (it holds {found or 'nothing'}): expected a folder written by "
        "vos_jax.convert, a workdir with best/<step> or last/<step>, or such a step folder; an "
        "official checkpoint must be converted first (python -m vos_jax.convert)"
    )


def first_line(error: BaseException) -> str:
    """What an error of a library says, without the lines for its developers."""
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:300]


def plain_config(config: Any) -> dict:
    """A config (ConfigDict or dict) as JSON holds it: dicts, lists, strings, numbers, None."""
    config = config.to_dict() if hasattr(config, "to_dict") else config
    try:
        return json.loads(json.dumps(config))
    except TypeError as error:
        raise ValueError(f"a config field cannot be written as JSON: {error}") from error


def metadata_tree(metadata: Any) -> Any:
    """The tree of array descriptions inside what Orbax returns as an item's metadata."""
    for attribute in ("item_metadata", "tree"):
        metadata = getattr(metadata, attribute, metadata)
    return metadata


def absolute(path: str | epath.PathLike) -> epath.Path:
    """The path with ~ and relative parts resolved; a remote one as it is."""
    path = epath.Path(path).expanduser()
    return path if "://" in str(path) else epath.Path(path.resolve())


def read_json(path: epath.Path) -> dict:
    """The content of a JSON file; ValueError names it where it cannot be read."""
    try:
        return json.loads(path.read_text())
    except ValueError as error:  # also of bytes that are no text
        raise ValueError(
            f"{path}: not a readable JSON file ({error}); it was cut off or damaged: put a copy in"
            " its place"
        ) from error


def write_json(path: epath.Path, content: dict) -> None:
    """Writes a JSON file whole or not at all: an interruption leaves what was there before."""
    write_whole(path, (json.dumps(content, indent=2, sort_keys=True) + "\n").encode())


def damage(step: epath.Path, items: Sequence[str]) -> str | None:
    """Why the folder of a step cannot be read, as far as its files tell; None if nothing does.

    items: the folders that it must hold, such as variables. Only what is there and broken counts:
    which files Orbax writes into them is its own affair.
    """
    if not step.is_dir():
        return "is a file"
    for item in items:
        files = list((step / item).iterdir()) if (step / item).is_dir() else []
        if not files:
            return f"has no {item}"
        for file in files:
            if file.name == "manifest.ocdbt" and not file.stat().length:
                return f"has an empty {item}/{file.name}"
            if file.name in ("_METADATA", "metadata") and not _is_json(file):
                return f"has an unreadable {item}/{file.name}"
    return None


def _is_json(file: epath.Path) -> bool:
    try:
        json.loads(file.read_text())
    except (OSError, ValueError):
        return False
    return True


def step_folders(folder: epath.Path) -> list[epath.Path]:
    """What is called like a step in last/ or best/, the newest first."""
    if not folder.is_dir():
        return []
    found = [entry for entry in folder.iterdir() if entry.name.isdecimal()]
    return sorted(found, key=lambda entry: int(entry.name), reverse=True)
