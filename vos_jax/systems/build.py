"""From a config section to a module, and from a module to its variables."""

import dataclasses
import difflib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import traverse_util

from vos_jax.systems.base import VOSModel
from vos_jax.systems.table import SYSTEMS


def build_model(section: Mapping[str, Any], **overrides: Any) -> VOSModel:
    """The module that a config section {"name": ..., field: value, ...} describes.

    Args:
        section: config.model; fields that it does not name have the module's defaults, which are
            the released configuration.
        overrides: fields that replace those of the section.

    Raises:
        ValueError: unknown name or field, with the nearest known ones.
    """
    fields = {**dict(section), **overrides}
    name = fields.pop("name", None)
    if name not in SYSTEMS:
        raise ValueError(f"config.model.name: expected one of {sorted(SYSTEMS)}, found {name!r}")
    module = SYSTEMS[name].model
    known = model_fields(module)
    for field in fields:
        if field not in known:
            near = difflib.get_close_matches(field, known, n=3) or list(known)
            raise ValueError(
                f"config.model.{field}: {name} has no such field; did you mean {near}?"
            )
    return module(**{field: as_tuples(value) for field, value in fields.items()})


def model_fields(module: type[VOSModel]) -> dict[str, Any]:
    """The fields of a system's module and their defaults."""
    own = [f for f in dataclasses.fields(module) if f.name not in ("parent", "name")]
    return {field.name: field.default for field in own}


def as_tuples(value: Any) -> Any:
    """Lists, which JSON makes of tuples, as tuples again, also those inside: modules are hashed."""
    return tuple(map(as_tuples, value)) if isinstance(value, list | tuple) else value


def init_variables(model: VOSModel, rng: jax.Array) -> dict[str, Any]:
    """Fresh variables {"params", "batch_stats"} of a model."""
    # It runs once, so compile time is what counts: unoptimised code halves it on CPU.
    options = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
    variables = jax.jit(_init(model), compiler_options=options)(rng)
    flat = traverse_util.flatten_dict(dict(variables))
    for source, target in model.traits.copied_scopes:
        for path in flat:
            twin = (path[0], source, *path[2:])
            if path[1] == target and twin in flat and flat[twin].shape == flat[path].shape:
                flat[path] = jnp.array(flat[twin])  # a buffer of its own: training donates both
    return traverse_util.unflatten_dict(flat)


def variable_shapes(model: VOSModel) -> dict[str, Any]:
    """`init_variables` as jax.ShapeDtypeStruct leaves, without computing anything."""
    return dict(jax.eval_shape(_init(model), jax.random.key(0)))


def _init(model: VOSModel) -> Callable[[jax.Array], dict[str, Any]]:
    def init(rng):
        return model.init(rng, *model.example_inputs())

    return init
