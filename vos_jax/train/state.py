"""TrainState: everything that a training run must remember from one step to the next.

The data pipeline has no state of its own (example i is a function of the seed and i), so step and
this pytree determine the rest of the run completely.
"""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax


@flax.struct.dataclass
class TrainState:
    """A pytree. Names follow Flax: params are trained, batch_stats are BatchNorm's averages.

    step: [] int32, optimizer steps taken. ema: None, or a running average shaped like params.
    rng: [2] uint32, the key of the run; it never changes, each step folds its number into it.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: Any
    ema: Any
    rng: jax.Array

    @classmethod
    def create(
        cls, variables: dict, tx: optax.GradientTransformation, seed: int, ema: bool = False
    ) -> "TrainState":
        """A state at step 0 from model variables {"params", and "batch_stats" if any}."""
        params = jax.tree.map(jnp.asarray, variables["params"])
        return cls(
            step=jnp.zeros([], jnp.int32),
            params=params,
            batch_stats=jax.tree.map(jnp.asarray, variables.get("batch_stats", {})),
            opt_state=tx.init(params),
            ema=jax.tree.map(jnp.copy, params) if ema else None,
            rng=jax.random.PRNGKey(seed),  # a plain array, which every version of Orbax saves
        )

    def variables(self, ema: bool = False) -> dict:
        """{"params", "batch_stats"} for Module.apply; ema=True takes the averaged parameters."""
        if ema and self.ema is None:
            raise ValueError(
                "this state keeps no parameter average: set config.train.ema above 0, "
                "or ask for variables(ema=False)"
            )
        params = self.ema if ema else self.params
        return {"params": params, "batch_stats": self.batch_stats}

    def best_variables(self) -> dict:
        """The variables to evaluate and to hand on: averaged where there is an average."""
        return self.variables(ema=self.ema is not None)
