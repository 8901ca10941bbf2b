"""One video in several views: at several scales, each of them also mirrored, averaged.

Inference as the released code of CFBI does it with `--ms` and `--flip` (z-x-yang/CFBI), for every
system. A view looks at its own version of each frame and keeps a memory of its own. The mean of the
views' probabilities, mirrored back and at the original size, is the result; all views remember the
masks that follow from it, hard or soft as the system feeds them back to itself. With several scales
the release of CFBI also bounds frames to 800 pixels before it scales them (`max_long_edge`).

A frame is mirrored before it is prepared, so that whatever a system does at its borders is done to
frame and masks alike; but for rounding it is the same as mirroring afterwards. A mirrored view is
one more video of the batch, so it costs time and memory and no compilation; every scale costs all
three.

Glossary: B videos, S sides: a frame, or a frame and its mirror image.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from vos_jax.systems.base import Traits, VOSModel


class Views(VOSModel):
    """A system in views, for inference alone. Its variables are those of `model`.

    Features, memory, predictions and prepared frames are tuples with an entry per scale, in which
    the batch is B * S. `model` must have a field `scale`, by which its `preprocess` scales frames.
    """

    model: VOSModel
    scales: tuple[float, ...] = (1.0,)
    flip: bool = False

    @property
    def traits(self) -> Traits:
        """Those of the system."""
        return self.model.traits

    @property
    def mesh(self) -> Mesh | None:
        """That of the system."""
        return self.model.mesh

    @property
    def systems(self) -> list[VOSModel]:
        """The system at each scale; its own scale, where it has one, is multiplied."""
        return [self.model.clone(scale=self.model.scale * scale) for scale in self.scales]

    def preprocess(self, frame: np.ndarray) -> tuple[np.ndarray, ...]:
        """The sides of the frame as the system at each scale wants them, [S, h, w, 3]."""
        sides = [frame, np.ascontiguousarray(frame[:, ::-1])] if self.flip else [frame]
        return tuple(np.stack([*map(system.preprocess, sides)]) for system in self.systems)

    def encode(self, inputs: Sequence[jax.Array], train: bool = False) -> tuple:
        """Features of prepared frames [B, S, h, w, 3]."""
        return self._each("encode", [x.reshape(-1, *x.shape[2:]) for x in inputs])

    def reference_frames(self, length: int, seed: int) -> tuple[int, ...]:
        """Those of the system."""
        return self.model.reference_frames(length, seed)

    def start(
        self,
        features: tuple,
        masks: jax.Array | None,
        valid: jax.Array,
        num_references: int = 1,
        train: bool = False,
    ) -> tuple:
        """Memory of the first frame."""
        masks, valid = self._sides(masks), self._repeated(valid)
        shared = dict(masks=masks, valid=valid, num_references=num_references)
        return self._each("start", features, **shared)

    def segment(self, memory: tuple, features: tuple, train: bool = False) -> tuple:
        """Prediction at each scale."""
        return self._each("segment", memory, features)

    def memorize(
        self, memory: tuple, features: tuple, prediction: tuple | None, masks: jax.Array | None
    ) -> tuple:
        """All views remember the frame with these masks, each in its own form."""
        nothing = [None] * len(memory)
        fitted = nothing
        if masks is not None:
            fitted = self._each("fit_masks", [self._sides(masks)] * len(memory), features)
        return self._each("memorize", memory, features, prediction or nothing, fitted)

    def introduce(self, memory: tuple, features: tuple, masks: jax.Array, new: jax.Array) -> tuple:
        """The objects in `new` enter the memory of every view."""
        masks, new = self._sides(masks), self._repeated(new)
        return self._each("introduce", memory, features, masks=masks, new=new)

    def probabilities(self, prediction: tuple, size: tuple[int, int]) -> jax.Array:
        """Mean of the views, [B, N+1, H, W].

        Labels are its largest channel, also of a system whose own labels are something else.
        """
        found = self._each("probabilities", prediction, size=size)
        mean = sum(found) / len(found)
        if not self.flip:
            return mean
        return (mean[::2] + mean[1::2, ..., ::-1]) / 2

    def evidence(self, memory: tuple, features: tuple) -> dict[str, jax.Array]:
        """That of the first view."""
        found = self.systems[0].apply(
            self.variables, memory[0], features[0], method=self.model.evidence
        )
        return jax.tree.map(lambda maps: maps[:: 1 + self.flip], found)

    def _each(self, method: str, *entries: Sequence[Any], **shared: Any) -> tuple:
        """What a method of the system gives at every scale; `entries` hold a value for each."""
        return tuple(
            system.apply(self.variables, *values, **shared, method=method)
            for system, *values in zip(self.systems, *entries, strict=True)
        )

    def _sides(self, masks: jax.Array | None) -> jax.Array | None:
        """[B, N+1, H, W] -> [B * S, N+1, H, W]: each followed by its mirror image."""
        if masks is None:
            return None
        sides = [masks, masks[..., ::-1]] if self.flip else [masks]
        return jnp.stack(sides, axis=1).reshape(-1, *masks.shape[1:])

    def _repeated(self, marks: jax.Array) -> jax.Array:
        """[B, N] -> [B * S, N]."""
        return jnp.repeat(marks, 2, axis=0) if self.flip else marks
