"""From a checkpoint to a model that is ready to segment."""

from typing import Any

from ml_collections import ConfigDict

from vos_jax.checkpoint_folder import import_variables
from vos_jax.inference.streaming import VideoSegmenter
from vos_jax.systems.base import HOW_COMPUTED
from vos_jax.systems.build import build_model, model_fields
from vos_jax.systems.table import SYSTEMS
from vos_jax.tasks import task_of


def load(checkpoint: str, config: ConfigDict | None = None) -> VideoSegmenter:
    """A segmenter for videos, from a checkpoint.

    Args:
        checkpoint: a folder written by vos_jax.convert, a workdir (its best step, else its last) or
            a step folder.
        config: None for the checkpoint's own. Otherwise its section model must describe the model
            that the checkpoint holds, and its section inference says how it is run.

    Raises:
        FileNotFoundError: no checkpoint there.
        ValueError: another model than the checkpoint holds, with the fields that differ.
    """
    variables, config = load_variables(checkpoint, config)
    return task_of(config).segmenter(config, variables)


def load_variables(
    checkpoint: str, config: ConfigDict | None = None
) -> tuple[dict[str, Any], ConfigDict]:
    """The variables of a system's checkpoint and the config that counts; arguments as in `load`."""
    variables, stored = import_variables(checkpoint)
    model = stored.get("model") if isinstance(stored, dict) else None
    name = model.get("name") if isinstance(model, dict) else None
    if not isinstance(name, str):
        raise ValueError(
            f"{checkpoint}: its config.json names no model (model.name); it was changed or damaged:"
            " put a copy in its place"
        )
    if name not in SYSTEMS:
        raise ValueError(
            f"{checkpoint} holds {name!r} alone, which is no system that could be run; a backbone "
            "goes to --config.init.backbone"
        )
    if config is None:
        try:
            config = ConfigDict(stored)
        except (ValueError, TypeError) as error:
            raise ValueError(f"{checkpoint}: its config.json is no config: {error}") from None
    elif fields := _differing_fields(stored["model"], config.model):
        raise ValueError(
            f"{checkpoint} holds another model than --config describes; checkpoint -> config:\n  "
            + "\n  ".join(fields)
            + "\nLeave out --config to use the checkpoint's own."
        )
    return variables, config


def _differing_fields(stored: Any, asked: Any) -> list[str]:
    """Lines "model.field: stored -> asked" where the two sections describe other models.

    The built models are compared, so a field that one of the sections leaves out has its default.
    Those of HOW_COMPUTED are the config's affair.
    """
    ours, theirs = build_model(stored), build_model(asked)
    if type(ours) is not type(theirs):
        return [f"model.name: {stored['name']!r} -> {asked['name']!r}"]
    names = [name for name in model_fields(type(ours)) if name not in HOW_COMPUTED]
    pairs = ((name, getattr(ours, name), getattr(theirs, name)) for name in names)
    return [f"model.{name}: {old!r} -> {new!r}" for name, old, new in pairs if old != new]
