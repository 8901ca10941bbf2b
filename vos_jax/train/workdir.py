"""The folder of a run: made for a new one, accepted for one that goes on, refused for another."""

from typing import Any

import jax
from etils import epath
from flax import traverse_util
from jax.experimental import multihost_utils

from vos_jax.checkpoint_folder import absolute, plain_config, read_json, write_json
from vos_jax.notes import note

# What a run may change when it is resumed: where the data lies, how far to train, how often to
# save, what is evaluated and reported, and the devices. All else would make it another run.
FREE_FIELDS = (
    "log",
    "profile_steps",
    "eval",
    "inference",
    "mesh",
    "data.dir",
    "data.eval",
    "data.workers",
    "data.processes",
    "data.train.*.dir",
    "data.pretrain.train.*.dir",
    "data.alternate.train.*.dir",
    "model.kernel_bytes",
    "train.steps",
    "train.save_steps",
    "train.save_minutes",
    "train.keep_last",
    "optim.scale_rule",  # what it did shows in the fields that it changed
)


def prepare_workdir(
    workdir: str | epath.Path, config: Any, manifest: dict, defaults: Any = None
) -> epath.Path:
    """Makes a run's folder, or accepts it for resuming; returns it as a path.

    A new folder gets config.json and manifest.json. A folder of the same run keeps them and
    gets the new manifest appended under "resumed". A folder with checkpoints of another config is
    refused with the fields that differ (except FREE_FIELDS). Raises ValueError.

    defaults: a config whose fields have the values that change nothing. A field that is newer than
    the folder may stand at that value.
    """
    workdir = absolute(workdir)
    config_path, manifest_path = workdir / "config.json", workdir / "manifest.json"
    started = _has_checkpoints(workdir)
    stored = _stored_config(config_path, started)
    if stored is None and started:
        raise ValueError(
            f"{workdir} holds checkpoints but no config.json, so their run is unknown; "
            "give another --workdir"
        )
    known = None if stored is None else _with_new_fields(stored, config, defaults)
    differing = [] if known is None else differing_fields(known, config, ignore=FREE_FIELDS)
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
            write_json(manifest_path, manifest)
            write_json(config_path, plain_config(config))
        else:
            first = _first_manifest(manifest_path)
            first["resumed"] = [*first.get("resumed", []), manifest]
            write_json(manifest_path, first)
    _barrier("workdir was written")
    return workdir


def begun_config(workdir: str | epath.Path) -> dict | None:
    """The stored config of a folder's run; None where no checkpoint was saved yet."""
    workdir = absolute(workdir)
    return _stored_config(workdir / "config.json", True) if _has_checkpoints(workdir) else None


def _has_checkpoints(workdir: epath.Path) -> bool:
    kinds = [workdir / kind for kind in ("last", "best")]
    return any(kind.exists() and any(kind.iterdir()) for kind in kinds)


def _stored_config(path: epath.Path, started: bool) -> dict | None:
    """None for a new run, and where an attempt failed before it had anything to keep."""
    if not path.exists():
        return None
    try:
        return read_json(path)
    except ValueError:
        if started:
            raise
        return None


def _first_manifest(path: epath.Path) -> dict:
    """What the run began with, {} where that is not known; the run does not depend on it."""
    if not path.exists():
        return {}
    try:
        return read_json(path)
    except ValueError as error:
        aside = path.with_name(f"{path.name}.damaged")
        path.rename(aside)
        note(f"{error}; it was moved to {aside}, and the run goes on")
        return {}


def differing_fields(old: Any, new: Any, ignore: tuple[str, ...] = ()) -> list[str]:
    """Lines "section.field: old -> new" for every field that differs, sorted by name.

    ignore: dotted names of fields or sections, in which * stands for one name.
    """
    a, b = (_by_name(plain_config(config)) for config in (old, new))
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


def _with_new_fields(stored: Any, config: Any, defaults: Any) -> dict:
    """The stored config, and those of the config's fields that it lacks and that have defaults."""
    fields = (_by_name(plain_config(x)) for x in (stored, config, defaults or {}))
    old, new, unchanged = fields
    nothing = object()
    added = {k: v for k, v in new.items() if k not in old and unchanged.get(k, nothing) == v}
    # a section that was empty is none of the fields any more once it has some
    sections = {name.rpartition(".")[0] for name in added}
    kept = {k: v for k, v in old.items() if not (v == {} and k in sections)}
    return traverse_util.unflatten_dict(kept | added, sep=".")


def _by_name(config: dict) -> dict[str, Any]:
    """Field names such as "data.crop" -> values; an empty section is a value, too."""
    return traverse_util.flatten_dict(config, sep=".", is_leaf=lambda _, value: value == {})


def _barrier(name: str) -> None:
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)
