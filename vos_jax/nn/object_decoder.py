"""A decoder with one ConvLSTM for each stride, recurrent over objects and over frames.

RIS (Romera-Paredes and Torr, ECCV 2016) has one level, RSIS (Salvador et al., arXiv 1712.00617) and
RVOS (Ventura et al., CVPR 2019, section 3) have several; released code of the latter two:
modules/model.py and clstm.py of imatge-upc/rsis and imatge-upc/rvos. The cell of a level sees the
hidden state of the level below it (enlarged, corners aligned), the frame's map of its stride, the
object's previous mask (RVOS), its own state for the object before, and its hidden state for the
same object in the frame before (RVOS). Of the first both states are handed on, of the latter the
hidden one alone.

What objects share is computed once per frame, what does not wait for the object before is computed
for all slots at once; only the two remaining convolutions of each level are in the loop.

Glossary: B videos, N slots, h w the grid of a level, D channels of its state.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from vos_jax.nn.convlstm import ConvLSTM, convolve, lstm_update
from vos_jax.ops.resized_convolution import convolve_resized


class State(NamedTuple):
    """What goes from object to object: of each level, the deepest first.

    Those of all slots have one more axis, [B, N, h, w, D].
    """

    hidden: tuple[jax.Array, ...]  # [B, h, w, D]
    cell: tuple[jax.Array, ...]  # float32 [B, h, w, D]


class ObjectDecoder(nn.Module):
    """The states of all objects; a subclass makes masks of them.

    features: D of each level, the deepest first. masked: it sees previous masks. temporal: it sees
    states of the frame before.
    """

    features: tuple[int, ...] = (128, 64, 32, 16)
    masked: bool = True
    temporal: bool = True
    dtype: Any = jnp.float32

    def states(
        self,
        skips: Sequence[jax.Array],
        masks: jax.Array | None,
        hidden: Sequence[jax.Array] | None,
        decoded: jax.Array,
        linked: jax.Array,
    ) -> State:
        """States of all slots in a frame; for the compact method of a subclass.

        Args:
            skips: maps of the frame [B, h, w, C], the deepest first.
            masks: what was seen of each slot's object last, float [B, N, H, W], if `masked`.
            hidden: states of the frame before [B, N, h, w, D], or None where there are none.
            decoded: bool [B, N]; slots without one change nothing and get zeros.
            linked: bool [B], whether a slot gets the state of the one before.
        """
        kernels, own = [], []
        pyramid = mask_pyramid(masks, len(skips)) if self.masked else [None] * len(skips)
        hidden = [None] * len(skips) if hidden is None else hidden
        for level, (skip, mask, before) in enumerate(zip(skips, pyramid, hidden, strict=True)):
            kernel, bias = self._cell(level, skip.shape[-1])()
            gates = (convolve(skip, kernel["skip"]) + bias)[:, None]
            if mask is not None:
                gates += convolve(mask[..., None], kernel["mask"])
            if before is not None:
                gates += convolve(before, kernel["temporal"])
            shape = (*decoded.shape, *gates.shape[2:])
            own.append(jnp.moveaxis(jnp.broadcast_to(gates, shape), 1, 0))
            kernels.append(kernel)
        return _objects(kernels, own, decoded, linked)

    def _cell(self, level: int, skip: int) -> ConvLSTM:
        features = self.features[level]
        below = {} if level == 0 else {"below": self.features[level - 1]}
        mask = {"mask": 1} if self.masked else {}
        temporal = {"temporal": features} if self.temporal else {}
        channels = {**below, "skip": skip, **mask, "spatial": features, **temporal}
        return ConvLSTM(features, channels, dtype=self.dtype, name=f"level_{level}")


class Decoder(ObjectDecoder):
    """The decoder of RSIS and RVOS: masks are a convolution of the finest level's states."""

    @nn.compact
    def __call__(
        self,
        skips: Sequence[jax.Array],
        masks: jax.Array | None,
        hidden: Sequence[jax.Array] | None,
        decoded: jax.Array,
        linked: jax.Array,
    ) -> tuple[jax.Array, State]:
        """Masks of all objects of a frame; the arguments are those of `states`.

        Returns:
            Logits float32 [B, N, 2 h, 2 w], h w the finest grid; the states of all slots.
        """
        found = self.states(skips, masks, hidden, decoded, linked)
        return self._logits(found.hidden[-1]), found

    def _logits(self, hidden: jax.Array) -> jax.Array:
        """3x3 convolution of the enlarged last states."""
        shape = (3, 3, hidden.shape[-1], 1)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape).astype(self.dtype)
        bias = self.param("bias", nn.initializers.zeros, (1,))
        batch, slots, height, width = hidden.shape[:4]
        x = hidden.reshape(batch * slots, height, width, -1)
        logits = convolve_resized(x, kernel, (2 * height, 2 * width)) + bias
        return logits.reshape(batch, slots, 2 * height, 2 * width).astype(jnp.float32)


def _objects(
    kernels: list[dict[str, jax.Array]],
    own: list[jax.Array],
    decoded: jax.Array,
    linked: jax.Array,
) -> State:
    """States of all slots, one after the other.

    own: the gates' share that does not depend on the slot before, [N, B, h, w, 4 D].
    """
    dtype = own[0].dtype
    sizes = [(*gates.shape[1:4], gates.shape[-1] // 4) for gates in own]
    zeros = State(*(tuple(jnp.zeros(s, d) for s in sizes) for d in (dtype, jnp.float32)))

    def decode(state: State, own: list[jax.Array]) -> State:
        state = _where(linked, state, zeros)
        hidden, cells, below = [], [], None
        for level, (kernel, gates) in enumerate(zip(kernels, own, strict=True)):
            gates += convolve(state.hidden[level], kernel["spatial"])
            if below is not None:
                enlarged = convolve_resized(below, kernel["below"], gates.shape[1:3])
                gates += enlarged.astype(gates.dtype)
            below, cell = lstm_update(gates, state.cell[level])
            below = below.astype(dtype)
            hidden.append(below)
            cells.append(cell)
        return State(tuple(hidden), tuple(cells))

    def step(state: State, slot: tuple) -> tuple[State, State]:
        own, active = slot

        def live(state):
            found = decode(state, own)
            return _where(active, found, state), _where(active, found, zeros)

        return jax.lax.cond(active.any(), live, lambda state: (state, zeros), state)

    _, found = jax.lax.scan(step, zeros, (own, decoded.T))
    return jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1), found)


def mask_pyramid(masks: jax.Array, levels: int) -> list[jax.Array]:
    """Maxima over the pixels of each level's stride, the deepest first: strides ..., 8, 4.

    masks [B, N, H, W] -> [B, N, ceil(H / s), ceil(W / s)].
    """
    halved, found = _halved(masks), []
    for _ in range(levels):
        halved = _halved(halved)
        found.append(halved)
    return found[::-1]


def _halved(x: jax.Array) -> jax.Array:
    return nn.max_pool(x[..., None], (2, 2), (2, 2), "SAME")[..., 0]


def _where(chosen: jax.Array, new: Any, old: Any) -> Any:
    """Leaf by leaf: `new` where chosen bool [B], else `old`."""

    def choose(new, old):
        return jnp.where(chosen.reshape(-1, *(1,) * (new.ndim - 1)), new, old)

    return jax.tree.map(choose, new, old)
