"""Checkpoints of training runs and of converted models, written with Orbax.

    WORKDIR/config.json, manifest.json     what was asked for, where and with what it ran
    WORKDIR/last/<step>/variables          what inference uses: params (averaged where the run
                                           keeps an average) and batch_stats
    WORKDIR/last/<step>/training           the rest of TrainState
    WORKDIR/best/<step>/variables, score   variables of the best evaluation, and that evaluation
    FOLDER/variables, config.json, manifest.json    written by export_variables

last and best have a manager each: a single one with best_fn deletes the newest step. They never
write at the same time: processes meet at barriers that Orbax names after the step alone, so two
managers that save one step would take each other's. Every path may be remote (etils.epath).
"""

import json
import math
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jax.experimental import multihost_utils

from vos_jax.train.state import TrainState

# What a run may change when it is resumed: where the data lies, how far to train, how often to
# save, what is evaluated and reported, and the devices. All else would make it another run.
FREE_FIELDS = (
    "log",
    "eval",
    "inference",
    "mesh",
    "data.dir",
    "data.eval",
    "data.workers",
    "data.train.*.dir",
    "train.steps",
    "train.save_steps",
    "train.save_minutes",
    "train.keep_last",
)


class Checkpoints:
    """The checkpoints of one workdir. Saving is asynchronous; wait() ends it.

    On several processes every method must be called by all of them.
    """

    def __init__(self, workdir: str | epath.Path, keep_last: int = 2):
        self.workdir = _absolute(workdir)
        standard, scores = ocp.StandardCheckpointHandler, ocp.JsonCheckpointHandler
        self._last = _manager(
            self.workdir / "last", keep_last, {"variables": standard(), "training": standard()}
        )
        self._best = _manager(
            self.workdir / "best", 1, {"variables": standard(), "score": scores()}
        )

    def latest_step(self) -> int | None:
        """The newest finished step in last/, or None."""
        return self._last.latest_step()

    def latest_path(self) -> epath.Path | None:
        """The folder of the newest finished step in last/, or None."""
        step = self.latest_step()
        return None if step is None else self.workdir / "last" / str(step)

    def save_last(self, state: TrainState) -> None:
        """Starts saving the whole state under its step; nothing if that step is there already."""
        step = int(state.step)
        if step in self._last.all_steps():
            return
        self._best.wait_until_finished()
        self._last.save(step, args=_composite(ocp.args.StandardSave, *_items(state)))

    def save_best(self, state: TrainState, scores: dict[str, float], metric: str) -> bool:
        """Saves the variables if scores[metric] exceeds the best so far; returns whether.

        scores must be equal on every process. A NaN is never the best.
        """
        if metric not in scores:
            raise ValueError(
                f"config.eval.metric is {metric!r}, but the evaluation reports "
                f"{sorted(scores)}; set it to one of these"
            )
        best = self.best_scores()
        value = float(scores[metric])
        if math.isnan(value) or (best is not None and value <= best.get(metric, -math.inf)):
            return False
        plain = {name: float(score) for name, score in scores.items()}
        step = int(state.step)
        if step in self._best.all_steps():
            self._best.delete(step)
        self._last.wait_until_finished()
        variables = ocp.args.StandardSave(state.best_variables())
        self._best.save(
            step, args=ocp.args.Composite(variables=variables, score=ocp.args.JsonSave(plain))
        )
        return True

    def best_scores(self) -> dict[str, float] | None:
        """The evaluation of the best step so far, or None."""
        self._best.wait_until_finished()
        step = self._best.latest_step()
        if step is None:
            return None
        restored = self._best.restore(step, args=ocp.args.Composite(score=ocp.args.JsonRestore()))
        return restored["score"]

    def restore(self, target: TrainState, sharding: Any = None) -> TrainState:
        """The newest state of last/ with the structure of target, on its shardings.

        target: arrays, or shapes with sharding given. The devices may differ from those that
        saved. Raises FileNotFoundError without a checkpoint, ValueError listing what differs.
        """
        self._last.wait_until_finished()
        step = self.latest_step()
        if step is None:
            raise FileNotFoundError(f"no checkpoint in {self.workdir / 'last'}; train first")
        sharding = jax.tree.map(lambda x: x.sharding, target) if sharding is None else sharding
        abstract = jax.tree.map(
            lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), target, sharding
        )
        variables, training = _items(abstract)
        stored = self._last.item_metadata(step)
        _check_same(stored["variables"], variables, self.latest_path() / "variables")
        _check_same(stored["training"], training, self.latest_path() / "training")
        restored = self._last.restore(
            step, args=_composite(ocp.args.StandardRestore, variables, training)
        )
        return _state(restored["variables"], restored["training"], target.ema is not None)

    def wait(self) -> None:
        """Returns when everything that save_last and save_best started is on disk."""
        self._last.wait_until_finished()
        self._best.wait_until_finished()

    def close(self) -> None:
        """Waits and frees the managers' threads."""
        self._last.close()
        self._best.close()


def prepare_workdir(workdir: str | epath.Path, config: Any, manifest: dict) -> epath.Path:
    """Makes a run's folder, or accepts it for resuming; returns it as a path.

    A new folder gets config.json and manifest.json. A folder of the same run keeps them and
    gets the new manifest appended under "resumed". A folder with checkpoints of another config is
    refused with the fields that differ (except FREE_FIELDS). Raises ValueError.
    """
    workdir = _absolute(workdir)
    config_path, manifest_path = workdir / "config.json", workdir / "manifest.json"
    stored = _read_json(config_path) if config_path.exists() else None
    kinds = [workdir / kind for kind in ("last", "best")]
    started = any(kind.exists() and any(kind.iterdir()) for kind in kinds)
    if stored is None and started:
        raise ValueError(
            f"{workdir} holds checkpoints but no config.json, so their run is unknown; "
            "give another --workdir"
        )
    differing = [] if stored is None else differing_fields(stored, config, ignore=FREE_FIELDS)
    if differing and not started:
        stored, differing = None, []  # the first attempt failed before it had anything to keep
    if differing:
        raise ValueError(
            f"{workdir} belongs to a run with another config (old -> new):\n  "
            + "\n  ".join(differing)
            + "\nGive another --workdir for a new run, or the old values to continue this one."
        )
    _barrier("workdir was read")
    if jax.process_index() == 0:
        workdir.mkdir(parents=True, exist_ok=True)
        if stored is None:
            _write_json(manifest_path, manifest)
            _write_json(config_path, plain_config(config))
        else:
            first = _read_json(manifest_path) if manifest_path.exists() else {}
            first["resumed"] = [*first.get("resumed", []), manifest]
            _write_json(manifest_path, first)
    _barrier("workdir was written")
    return workdir


def differing_fields(old: Any, new: Any, ignore: tuple[str, ...] = ()) -> list[str]:
    """Lines "section.field: old -> new" for every field that differs, sorted by name.

    ignore: dotted names of fields or sections, in which * stands for one name.
    """
    a, b = _flatten(plain_config(old)), _flatten(plain_config(new))
    names = sorted(n for n in a.keys() | b.keys() if a.get(n, "absent") != b.get(n, "absent"))
    rules = [rule.split(".") for rule in ignore]

    def ignored(name):
        parts = name.split(".")
        return any(
            len(parts) >= len(rule)
            and all(r in ("*", p) for r, p in zip(rule, parts, strict=False))
            for rule in rules
        )

    def shown(fields, name):
        return repr(fields[name]) if name in fields else "absent"

    return [f"{n}: {shown(a, n)} -> {shown(b, n)}" for n in names if not ignored(n)]


def plain_config(config: Any) -> dict:
    """A config (ConfigDict or dict) as JSON holds it: dicts, lists, strings, numbers, None."""
    config = config.to_dict() if hasattr(config, "to_dict") else config
    try:
        return json.loads(json.dumps(config))
    except TypeError as error:
        raise ValueError(f"a config field cannot be written as JSON: {error}") from error


def export_variables(
    folder: str | epath.Path, variables: dict, config: Any, manifest: dict, overwrite: bool = False
) -> epath.Path:
    """Writes {"params", "batch_stats"} as a folder that import_variables reads; returns it.

    Refuses a folder that is not empty (ValueError) unless overwrite, which replaces variables,
    config.json and manifest.json and leaves other files alone.
    """
    folder = _absolute(folder)
    if folder.exists() and any(folder.iterdir()) and not overwrite:
        raise ValueError(f"{folder} exists and is not empty; give another folder")
    plain = plain_config(config)
    folder.mkdir(parents=True, exist_ok=True)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(folder / "variables", variables, force=overwrite)
    if jax.process_index() == 0:
        _write_json(folder / "config.json", plain)
        _write_json(folder / "manifest.json", manifest)
    return folder


def import_variables(path: str | epath.Path) -> tuple[dict, dict]:
    """Variables as numpy arrays, and the config dict, of a checkpoint.

    path: a folder of export_variables, a workdir (its best step, else its last) or a step
    folder. Where the run kept averaged parameters these are they. Raises FileNotFoundError.
    """
    path = _absolute(path)
    folder = _find_step(path)
    homes = [folder, folder.parent, folder.parent.parent]
    config_path = next((h / "config.json" for h in homes if (h / "config.json").exists()), None)
    if config_path is None:
        raise FileNotFoundError(
            f"{path}: no config.json in {folder} or the two folders above it, so the model of "
            "these variables is unknown; point to the whole workdir or exported folder"
        )
    with ocp.PyTreeCheckpointer() as checkpointer:
        stored = _tree(checkpointer.metadata(folder / "variables"))
        as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), stored)
        variables = checkpointer.restore(folder / "variables", restore_args=as_numpy)
    return variables, _read_json(config_path)


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


def _items(state: TrainState) -> tuple[dict, dict]:
    """The state as the two saved items: what inference needs, and the rest."""
    training = {"step": state.step, "opt_state": state.opt_state, "rng": state.rng}
    if state.ema is not None:
        training["params"] = state.params
    return state.best_variables(), training


def _state(variables: dict, training: dict, averaged: bool) -> TrainState:
    return TrainState(
        step=training["step"],
        params=training["params"] if averaged else variables["params"],
        batch_stats=variables["batch_stats"],
        opt_state=training["opt_state"],
        ema=variables["params"] if averaged else None,
        rng=training["rng"],
    )


def _composite(kind: Any, variables: dict, training: dict) -> ocp.args.Composite:
    return ocp.args.Composite(variables=kind(variables), training=kind(training))


def _check_same(stored: Any, expected: Any, path: epath.Path) -> None:
    """Raises our own error before Orbax reads arrays of another model or optimizer."""
    found, wanted = _shapes(_tree(stored)), _shapes(expected)
    lines = [
        f"{name}: checkpoint {found.get(name, 'absent')}, this run {wanted.get(name, 'absent')}"
        for name in sorted(found.keys() | wanted.keys())
        if found.get(name) != wanted.get(name)
    ]
    if lines:
        more = [f"... and {len(lines) - 8} more"] if len(lines) > 8 else []
        raise ValueError(
            f"{path} was saved by another model or optimizer; these arrays differ:\n  "
            + "\n  ".join(lines[:8] + more)
            + "\nUse the config it was saved with, or another --workdir."
        )


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]

    def name(path):
        # A NamedTuple's field is an attribute here and a dict key in a stored tree; a tuple's
        # index an integer here and a string or an integer there.
        parts = (getattr(k, "key", getattr(k, "name", getattr(k, "idx", k))) for k in path)
        return "/".join(str(part) for part in parts)

    return {name(path): tuple(leaf.shape) for path, leaf in leaves}


def _tree(metadata: Any) -> Any:
    """The tree of array descriptions inside what Orbax returns as an item's metadata."""
    for attribute in ("item_metadata", "tree"):
        metadata = getattr(metadata, attribute, metadata)
    return metadata


def _manager(folder: epath.Path, keep: int, handlers: dict) -> ocp.CheckpointManager:
    options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=True)
    return ocp.CheckpointManager(folder, options=options, item_handlers=handlers)


def _flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(tree, dict) or not tree:
        return {prefix[:-1]: tree} if prefix else {}
    return {k: v for key in tree for k, v in _flatten(tree[key], f"{prefix}{key}.").items()}


def _absolute(path: str | epath.Path) -> epath.Path:
    path = epath.Path(path).expanduser()
    return path if "://" in str(path) else epath.Path(path.resolve())


def _barrier(name: str) -> None:
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def _read_json(path: epath.Path) -> dict:
    return json.loads(path.read_text())


def _write_json(path: epath.Path, content: dict) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")
