"""A folder with a model's variables and the config that describes the model.

    FOLDER/variables         params and batch_stats, written by Orbax
    FOLDER/config.json       the config, of which the section model is built
    FOLDER/manifest.json     where the variables come from

vos_jax.convert writes such folders, and every step of a run's workdir is one (its config.json lies
in the workdir). Paths may be remote (etils.epath).
"""

import json
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath


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
    folder. Where the run kept averaged parameters these are they. Raises FileNotFoundError.
    """
    path = absolute(path)
    folder = _find_step(path)
    homes = [folder, folder.parent, folder.parent.parent]
    config_path = next((h / "config.json" for h in homes if (h / "config.json").exists()), None)
    if config_path is None:
        raise FileNotFoundError(
            f"{path}: no config.json in {folder} or the two folders above it, so the model of "
            "these variables is unknown; point to the whole workdir or exported folder"
        )
    with ocp.PyTreeCheckpointer() as checkpointer:
        stored = metadata_tree(checkpointer.metadata(folder / "variables"))
        as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), stored)
        variables = checkpointer.restore(folder / "variables", restore_args=as_numpy)
    return variables, read_json(config_path)


def _find_step(path: epath.Path) -> epath.Path:
    if not path.exists():
        raise FileNotFoundError(f"checkpoint {path} does not exist")
    if (path / "variables").exists():
        return path
    for folder in (path / "best", path / "last", path):
        steps = ocp.utils.checkpoint_steps(folder) if folder.is_dir() else []
        if steps and (folder / str(max(steps)) / "variables").exists():
            return folder / str(max(steps))
    found = sorted(child.name for child in path.iterdir())[:8] if path.is_dir() else "a file"
    raise FileNotFoundError(
        f"{path} is no checkpoint (it holds {found or 'nothing'}): expected a folder written by "
        "vos_jax.convert, a workdir with best/<step> or last/<step>, or such a step folder; an "
        "official checkpoint must be converted first (python -m vos_jax.convert)"
    )


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
    """The content of a JSON file."""
    return json.loads(path.read_text())


def write_json(path: epath.Path, content: dict) -> None:
    """Writes a JSON file whole or not at all: an interruption leaves what was there before."""
    text = json.dumps(content, indent=2, sort_keys=True) + "\n"
    if "://" in str(path):  # an object store replaces an object at once
        path.write_text(text)
        return
    unfinished = path.with_name(f".{path.name}.unfinished")
    unfinished.write_text(text)
    unfinished.replace(path)
