"""Rematerialisation: what is inside of blocks is computed again in the backward pass, not kept.

Chen et al., "Training Deep Nets with Sublinear Memory Cost", arXiv 1604.06174. A network asks for
the class of each of its blocks here; who trains it says whether they are recomputed, so no module
has a field for it, and the parameter tree is the same either way.
"""

import contextlib
import functools
import inspect
from collections.abc import Iterator
from contextvars import ContextVar

import flax.linen as nn

_RECOMPUTED = ContextVar("recomputed", default=False)


@contextlib.contextmanager
def recomputed_blocks(wanted: bool = True) -> Iterator[None]:
    """Of networks that are traced in here, only the inputs and outputs of blocks are kept."""
    token = _RECOMPUTED.set(wanted)
    try:
        yield
    finally:
        _RECOMPUTED.reset(token)


def blocks_are_recomputed() -> bool:
    """Whether this is traced under `recomputed_blocks`."""
    return _RECOMPUTED.get()


def block(module: type[nn.Module]) -> type[nn.Module]:
    """The class of a block: itself, or its recomputed form under `recomputed_blocks`.

    The module is to be named by hand (or to be an attribute of `setup`), and to take `train`, if it
    does, by position.
    """
    return _recomputed(module) if blocks_are_recomputed() else module


@functools.cache
def _recomputed(module: type[nn.Module]) -> type[nn.Module]:
    arguments = list(inspect.signature(module.__call__).parameters)
    static = (arguments.index("train"),) if "train" in arguments else ()
    return nn.remat(module, static_argnums=static)
