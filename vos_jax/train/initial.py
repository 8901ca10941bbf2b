"""What a run starts from: fresh variables, a pretrained backbone, or a whole converted model."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax import traverse_util

from vos_jax.checkpoint_folder import import_variables
from vos_jax.systems.base import VOSModel
from vos_jax.systems.build import init_variables
from vos_jax.systems.vis_base import VISModel
from vos_jax.train.optim import fits


def initial_variables(
    model: VOSModel | VISModel, init: Mapping[str, Any], seed: int
) -> dict[str, Any]:
    """Fresh variables of `model`, replaced by what config.init names.

    init.backbone: a folder written by vos_jax.convert for the backbone alone; it must hold every
    array of the model's backbones. init.model: a folder of the whole system (convert, workdir or
    step), but for arrays that fit init.fresh, patterns as config.optim has them: they stay as they
    are, such as outputs for other classes. The optimizer starts fresh.

    Raises:
        ValueError: arrays that are missing or have another shape, all of them listed.
        FileNotFoundError: no checkpoint there.
    """
    variables = jax.device_get(init_variables(model, jax.random.key(seed)))
    if init["model"]:
        loaded, fresh = import_variables(init["model"])[0], init.get("fresh", ())
        variables = _replaced(variables, loaded, (), init["model"], fresh)
    if init["backbone"]:
        loaded = import_variables(init["backbone"])[0]
        for scope in model.traits.backbone_scopes:
            variables = _replaced(variables, loaded, scope, init["backbone"])
    return variables


def _replaced(
    variables: Mapping[str, Any],
    loaded: Mapping[str, Any],
    scope: tuple[str, ...],
    folder: str,
    fresh: Sequence[str] = (),
) -> dict[str, Any]:
    """`variables` with everything below `scope` but what is `fresh` taken from `loaded`."""
    ours = traverse_util.flatten_dict(dict(variables))
    theirs = traverse_util.flatten_dict(dict(loaded))
    problems = []
    for path, value in ours.items():
        if path[1 : 1 + len(scope)] != scope or fits(fresh, "/".join(path[1:])):
            continue
        source = theirs.get((path[0], *path[1 + len(scope) :]))
        if source is None or np.shape(source) != np.shape(value):
            found = "missing" if source is None else f"{np.shape(source)}"
            problems.append(f"{'/'.join(path)}: expected {np.shape(value)}, found {found}")
        else:
            ours[path] = np.asarray(source, np.asarray(value).dtype)
    if problems:
        shown = "\n  ".join(problems[:10]) + (
            f"\n  and {len(problems) - 10} more" * (len(problems) > 10)
        )
        raise ValueError(
            f"{folder} does not fit the model of this config ({len(problems)} arrays); is "
            f"config.model the one it was made for?\n  {shown}"
        )
    return traverse_util.unflatten_dict(ours)
