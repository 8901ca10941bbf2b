"""MaskProp's own rule, with masks for frames in which it missed an object (`fill_missing`).

They are known T frames after the ids are, so frames are decided 2 T frames late. What was carried
is on a coarse grid; it is enlarged to the frame and cut at 1/2.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import cv2
import numpy as np

from vos_jax.data.rle import encode
from vos_jax.inference.instances import Detected, ModelLinker
from vos_jax.inference.linking.base import Linked
from vos_jax.systems.maskprop.filling import THRESHOLD, Filling
from vos_jax.systems.maskprop.model import LinkedClip, MaskProp


class FillingLinker(ModelLinker):
    """The frames that a ModelLinker decides, and what its clips carried to them."""

    def __init__(self, model: MaskProp, variables: Mapping[str, Any]):
        super().__init__(model, variables)
        self._stride = model.stride
        self._filling = Filling(model.reach)
        self._waiting: list[Linked] = []
        self._missed: list[dict[int, np.ndarray]] = []

    def step(self, detected: Detected) -> list[Linked]:
        """The frames that are decided now."""
        self._waiting += super().step(detected)
        return self._filled()

    def finish(self) -> list[Linked]:
        """The frames that were not decided yet."""
        self._waiting += super().finish()
        self._missed += self._filling.finish()
        return self._filled()

    def _decided(self, linked: LinkedClip) -> None:
        self._missed += self._filling.step(np.asarray(linked.masks[0]), np.asarray(linked.ids[0]))

    def _filled(self) -> list[Linked]:
        count = len(self._missed)
        done, self._waiting = self._waiting[:count], self._waiting[count:]
        missed, self._missed = self._missed, []
        return [self._fill(one, masks) for one, masks in zip(done, missed, strict=True)]

    def _fill(self, linked: Linked, missed: Mapping[int, np.ndarray]) -> Linked:
        placed = np.asarray(self._last.features.size)[0]  # frames of a video have one size
        masks = [self._on_frame(mask, placed, linked.found.size) for mask in missed.values()]
        rles = encode(np.stack(masks)) if masks else []
        pairs = zip(missed, masks, rles, strict=True)
        return replace(linked, filled={i: rle for i, mask, rle in pairs if mask.any()})

    def _on_frame(self, mask: np.ndarray, placed: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """bool [H, W] of a mask float32 [h, w] on the grid of the canvas."""
        canvas = cv2.resize(mask, (mask.shape[1] * self._stride, mask.shape[0] * self._stride))
        return cv2.resize(canvas[: placed[0], : placed[1]], size[::-1]) > THRESHOLD
