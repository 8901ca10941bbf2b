"""One frame of a full-size system with fresh weights, and the stages it consists of.

Every system goes through the same four stages (systems/base.py): encode, segment, feedback,
memorize. What is measured within a stage is what the system's entry in SYSTEMS names: submodules
and methods, called with what they are given there.
"""

import argparse
from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vos_jax.benchmarks.measuring import Case
from vos_jax.inference.rollout import advance, begin
from vos_jax.systems.base import Part, System, one_hot
from vos_jax.systems.build import init_variables

WHOLE = "whole frame"


def system_cases(
    system: System, options: argparse.Namespace, fields: Mapping[str, Any]
) -> list[Case]:
    """A whole frame of the released network, its stages, and the parts that its entry names.

    fields: of the model, in place of the released ones.
    """
    frame = Frame(system, tuple(options.frame), options.objects, fields)
    return [*frame.stages(), *(case for part in system.parts for case in frame.part(part))]


class Frame:
    """A frame of a video and what is known by then, made when it is needed."""

    def __init__(
        self, system: System, size: tuple[int, int], objects: int, fields: Mapping[str, Any]
    ):
        self._model, self._warm_up = system.model(**{**system.measured, **fields}), system.warm_up
        self._size, self._objects = size, objects
        self.inputs, self.started = cache(self._inputs), cache(self._started)
        self.memorized = cache(self._memorized)

    def stages(self) -> list[Case]:
        """The whole frame and its four stages."""
        call, size = self._call, self._size

        def whole(variables, memory, frames):
            features = call("encode")(variables, frames)
            return self._model.apply(variables, memory, features, size, method=advance)

        def segmented():
            return self.started()[0], self.memorized()[3]

        return [
            Case(WHOLE, whole, lambda: (*self.started()[:2], self.inputs()[1])),
            Case("encode", call("encode"), self.inputs, WHOLE),
            Case("segment", call("segment"), self.started, WHOLE),
            Case("feedback", partial(call("feedback"), size=size), segmented, WHOLE),
            Case("memorize", call("memorize"), self.memorized, WHOLE),
        ]

    def part(self, part: Part) -> list[Case]:
        """A part alone, with what it is given within its stage, and its floor if it has one.

        A part that a stage calls several times, such as once for each scale, runs as often.
        """
        stage = {
            "encode": self.inputs,
            "segment": self.started,
            "memorize": self.memorized,
        }[part.stage]

        held = {}

        def calls(variables, *arguments):
            with nn.intercept_methods(partial(_note, part.name, seen := [])):
                self._call(part.stage)(variables, *arguments)
            return seen

        def arguments():
            variables, *rest = stage()
            arrays, held["whole"] = _concrete(calls, variables, *rest)
            return variables, arrays

        def run(variables, arrays):
            def all_calls(model):
                return [getattr(model, part.name)(*call) for call in held["whole"](arrays)]

            return self._model.apply(variables, method=all_calls)

        name = part.name.replace("_", " ")
        if part.floor is None:
            return [Case(name, run, arguments, part.stage)]
        floor = f"floor of {name}"
        floored = Case(floor, part.floor, lambda: stage()[1:])
        return [floored, Case(name, run, arguments, floor)]

    def _call(self, stage: str) -> Callable[..., Any]:
        """A stage as a function of the variables."""
        return partial(self._model.apply, method=getattr(self._model, stage))

    def _inputs(self):
        frame = np.random.default_rng(0).integers(0, 256, (*self._size, 3)).astype(np.uint8)
        variables = init_variables(self._model, jax.random.key(0))
        return variables, self._model.preprocess(frame)[None]

    def _masks(self):
        labels = np.random.default_rng(1).integers(0, self._objects + 1, (1, *self._size))
        return one_hot(labels, self._objects)

    def _started(self):
        """Variables, memory after the first frames, features."""
        variables, frames = self.inputs()
        features = jax.jit(self._call("encode"))(variables, frames)
        alone = self._model.traits.guidance == "none"
        masks, slots = (None, self._model.traits.proposals) if alone else (self._masks(), None)
        valid = jnp.ones((1, slots or self._objects), bool)
        start = jax.jit(partial(self._model.apply, method=begin), static_argnums=2)
        memory, _ = start(variables, features, self._size, masks, valid)
        memorize = jax.jit(self._call("memorize"))
        for _ in range(self._warm_up - 1):
            memory = memorize(variables, memory, *self._remembered(variables, memory, features))
        return variables, memory, features

    def _memorized(self):
        """What `memorize` is given after `started`."""
        variables, memory, features = self.started()
        return variables, memory, *self._remembered(variables, memory, features)

    def _remembered(self, variables, memory, features):
        """Features, prediction, and what stands for the frame."""
        prediction = jax.jit(self._call("segment"))(variables, memory, features)
        feedback = jax.jit(partial(self._call("feedback"), size=self._size))
        return features, prediction, feedback(variables, prediction)


def _note(name: str, seen: list[tuple], call, positional, keywords, context):
    """Keeps what a submodule, or a method of the whole model, called `name` is given."""
    path, method = context.module.path, context.method_name
    if (path, method) in (((name,), "__call__"), ((), name)):
        seen.append(positional)
    return call(*positional, **keywords)


def _concrete(function: Callable[..., list], *arguments: Any) -> tuple[list, Callable]:
    """The arrays in what a function returns when it is compiled, and what puts them back there.

    Numbers in it, such as that of a scale, are no arrays, so that they stay numbers when the parts
    are compiled in turn.
    """
    static = {}

    def arrays(*arguments):
        leaves, tree = jax.tree.flatten(function(*arguments))
        traced = [isinstance(leaf, jax.Array) for leaf in leaves]
        static.update(tree=tree, traced=traced, leaves=leaves)
        return [leaf for leaf, is_array in zip(leaves, traced, strict=True) if is_array]

    def whole(arrays):
        found, leaves = iter(arrays), zip(static["leaves"], static["traced"], strict=True)
        return static["tree"].unflatten(next(found) if traced else leaf for leaf, traced in leaves)

    return jax.jit(arrays)(*arguments), whole
