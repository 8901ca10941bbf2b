"""One frame of a full-size system for instances with fresh weights, and its stages.

Every system goes through the same three (systems/vis_base.py): encode, detect, link; masks of whole
frames are made apart, for the instances that are asked for. With fresh weights what is found means
nothing, but every program has fixed shapes: a frame costs what any other costs, except for loops
that end by their data (suppression of boxes).
"""

import argparse
from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Any

import jax
import numpy as np

from vos_jax.benchmarks.measuring import Case
from vos_jax.systems.base import System
from vos_jax.systems.build import init_variables
from vos_jax.systems.mask_rcnn.model import BOX_BINS

WHOLE = "whole frame"


def instance_cases(
    system: System, options: argparse.Namespace, fields: Mapping[str, Any]
) -> list[Case]:
    """A whole frame of the released network, with `fields` in place of its own, and its stages."""
    model = system.model(**{**system.measured, **fields})
    return InstanceFrame(model, tuple(options.frame)).stages()


class InstanceFrame:
    """A frame of a video and what is known by then, made when it is needed."""

    def __init__(self, model: Any, size: tuple[int, int]):
        self._model, self._size = model, size
        self.inputs, self.linked = cache(self._inputs), cache(self._linked)

    def stages(self) -> list[Case]:
        """The whole frame, its stages, and what `detect` does in turn."""
        call = self._call

        def whole(variables, memory, inputs):
            features = call("encode")(variables, inputs)
            found = call("detect")(variables, features)
            return call("link")(variables, memory, features, found, np.ones(1, bool))

        def boxes(model, features, proposals):
            return model.classify(model.pool(features, proposals, BOX_BINS))

        def pasted(variables, found):
            return call("masks")(variables, found, self._size)

        def whole_of():
            variables, memory, *_ = self.linked()
            return variables, memory, self.inputs()[1]

        def features_of():
            variables, _, features, _ = self.linked()
            return variables, features

        def proposals_of():
            variables, features = features_of()
            proposals, *_ = jax.jit(call("propose"))(variables, features)
            return variables, features, proposals

        def found_of():
            variables, _, features, found = self.linked()
            return variables, features, found.boxes, found.classes

        apply = partial(self._model.apply, method=boxes)
        return [
            Case(WHOLE, whole, whole_of),
            Case("encode", call("encode"), self.inputs, WHOLE),
            Case("detect", call("detect"), features_of, WHOLE),
            Case("propose", call("propose"), features_of, "detect"),
            Case("boxes of proposals", apply, proposals_of, "detect"),
            Case("masks on their grids", call("mask_logits"), found_of, "detect"),
            Case("link", call("link"), lambda: (*self.linked(), np.ones(1, bool)), WHOLE),
            Case("masks of the frame", pasted, lambda: self.linked()[::3], WHOLE),
        ]

    def _call(self, method: str) -> Callable[..., Any]:
        """A method as a function of the variables."""
        return partial(self._model.apply, method=getattr(self._model, method))

    def _inputs(self):
        frame = np.random.default_rng(0).integers(0, 256, (*self._size, 3)).astype(np.uint8)
        variables = init_variables(self._model, jax.random.key(0))
        return variables, jax.tree.map(lambda x: x[None], self._model.preprocess(frame))

    def _linked(self):
        """Variables, memory after the frame, its features and detections."""
        variables, inputs = self.inputs()
        features = jax.jit(self._call("encode"))(variables, inputs)
        found = jax.jit(self._call("detect"))(variables, features)
        memory = jax.jit(self._call("start"))(variables, features)
        seen = (variables, memory, features, found, np.ones(1, bool))
        memory, _ = jax.jit(self._call("link"))(*seen)
        return variables, memory, features, found
