"""What a train step keeps of its forward pass for the backward pass, counted and not run.

    python -c "from vos_jax.benchmarks.residuals import residual_table; print(residual_table())"

It is what `config.train.remat` and `config.model.dtype` change and, beside parameters and the
optimizer, what fills a device. Counted are the arrays that `jax.vjp` saves of the traced step, each
once: an upper bound, for XLA computes cheap ones again. XLA's plan for a CPU (`memory_analysis`)
does not show them: there, what is computed again in the backward pass is computed early.
"""

from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Literal

from vos_jax.benchmarks.training import clip_shapes
from vos_jax.metrics.text_table import format_table
from vos_jax.presets.common import system_config
from vos_jax.systems.build import build_model, variable_shapes
from vos_jax.systems.table import systems_of
from vos_jax.train.objective import make_objective
from vos_jax.train.optim import fits, map_with_path


def residual_bytes(config: Any) -> int:
    """Bytes that each clip of a batch adds to what a train step keeps, on an accelerator.

    config: a whole one; its sections model, data, train, loss and optim.freeze tell. What does not
    grow with the batch, such as weights in bfloat16, is left out. Nothing is compiled.
    """
    return _kept(config, 2) - _kept(config, 1)


def residual_table(*systems: str, preset: str = "paper") -> str:
    """GB per clip of a preset of these systems (none: of all), by the model's dtype and remat."""
    header = ["GB per clip", *(f"{dtype}, {remat}" for dtype, remat in _FORMS)]
    rows = [header]
    for system in systems or systems_of("vos"):
        config = system_config(system, preset)
        row = [system]
        for dtype, remat in _FORMS:
            config.model.dtype, config.train.remat = dtype, remat
            row.append(f"{residual_bytes(config) / 1e9:.1f}")
        rows.append(row)
    return format_table(rows)


_FORMS = [(dtype, remat) for dtype in ("float32", "bfloat16") for remat in ("none", "blocks")]


def _kept(config: Any, batch: int) -> int:
    """Bytes kept by a step with so many clips, without what it was given."""
    model = build_model(config.model, **config.train.model)
    objective = make_objective(model, config.train, config.loss)

    def backward_pass(variables, batch, step, rng):
        def loss(params):
            params = map_with_path(
                lambda path, p: lax.stop_gradient(p) if fits(config.optim.freeze, path) else p,
                params,
            )
            losses, *others = objective({**variables, "params": params}, batch, step, rng)
            return losses.mean(), others

        return jax.vjp(loss, variables["params"], has_aux=True)[1]

    examples = {
        key: jax.ShapeDtypeStruct((batch, *x.shape), x.dtype)
        for key, x in clip_shapes(config.data).items()
    }
    arguments = variable_shapes(model), examples, jnp.int32(0)
    # as lowering does for a GPU or TPU
    with mock.patch.object(lax, "platform_dependent", lambda *args, default, **_: default(*args)):
        jaxpr = jax.make_jaxpr(backward_pass)(*arguments, jax.random.key(0)).jaxpr
    kept = {x for x in jaxpr.outvars if not isinstance(x, Literal)} - set(jaxpr.invars)
    return sum(x.aval.size * x.aval.dtype.itemsize for x in kept)
