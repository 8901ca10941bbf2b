"""CFBI+ (TPAMI 2021, arXiv 2010.06349): CFBI at three scales of a feature pyramid."""

import jax
import jax.numpy as jnp

from vos_jax.nn.deeplab_dense import Maps
from vos_jax.nn.fpn import GroupNormFPN
from vos_jax.systems.cfbi.model import CFBI


class CFBIPlus(CFBI):
    """CFBI+: matching at three scales of a feature pyramid. Fields are its released configuration.

    The embeddings have `features` channels; `embedding_dim` and `local_halved` are CFBI's.
    """

    named_windows = {
        name: ((4, 8, 12, 16, 20, 24), (2, 4, 6, 8, 10, 12), coarsest)
        for name, coarsest in {"code": (2, 4, 6, 8, 10), "paper": (4, 6, 8, 10)}.items()
    }

    matching_dims: tuple[int, ...] = (32, 64, 128)
    global_rates: tuple[int, ...] = (2, 1, 1)
    local_rates: tuple[int, ...] = (2, 1, 1)
    local_halved: bool = False

    def _setup_scales(self, dtype):
        self.fpn = GroupNormFPN(self.features, self.groups, dtype)

    def _embed(self, maps: Maps) -> tuple[jax.Array, ...]:
        return self.fpn((maps.decoded, maps.mid_level, maps.pyramid))

    def _head_input(self, cues: jax.Array, frames: list[jax.Array]) -> jax.Array:
        return jnp.concatenate([cues, *frames], axis=-1)
