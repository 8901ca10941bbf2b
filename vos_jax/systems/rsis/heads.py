"""What is said of an object besides its mask, from the largest values of its states (RSIS, RIS)."""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp


class Heads(nn.Module):
    """Linear maps of the largest value of each channel, in float32.

    classes: with class 0, which is no object; 0: no head for them. boxes: whether there is one.
    """

    classes: int
    boxes: bool = False

    @nn.compact
    def __call__(self, hidden: Sequence[jax.Array]) -> dict[str, jax.Array | None]:
        """States of all levels [B, S, h, w, D], the deepest first -> what `Prediction` has."""
        largest = [x.max(axis=(2, 3)).astype(jnp.float32) for x in hidden]
        seen = jnp.concatenate(largest, axis=-1)
        classes = nn.Dense(self.classes, name="class_logits")(seen) if self.classes else None
        boxes = nn.sigmoid(nn.Dense(4, name="box_logits")(seen)) if self.boxes else None
        there = nn.Dense(1, name="stop_logits")(seen)[..., 0]
        return {"there": there, "classes": classes, "boxes": boxes}
