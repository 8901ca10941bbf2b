"""One frame of a full-size system with fresh weights, and the stages it consists of.

Every system goes through the same four stages (models/protocol.py): encode, segment, feedback,
memorize. The parts of a stage are submodules, called with what they are given within the stage, and
the operations of `ops` on the memory's own arrays.
"""

import argparse
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vos_jax.benchmarks.kernels import read_cases
from vos_jax.benchmarks.measuring import Case
from vos_jax.inference.rollout import advance
from vos_jax.models import init_variables
from vos_jax.models.cfbi import CFBI
from vos_jax.models.feelvos import FEELVOS
from vos_jax.models.protocol import VOSModel, one_hot
from vos_jax.models.stm import STM
from vos_jax.ops.matching import global_matching
from vos_jax.ops.multi_local import multi_local_matching
from vos_jax.ops.resize import resize_bilinear, resize_nearest

WHOLE = "whole frame"


def feelvos_cases(options: argparse.Namespace, model: FEELVOS) -> list[Case]:
    """FEELVOS: of the segmentation, the head."""
    frame = Frame(model, options)
    return [*frame.cases(), frame.part("segment", "head")]


def stm_cases(options: argparse.Namespace, model: STM) -> list[Case]:
    """STM, its memory full: of the segmentation, the memory read and the decoder."""

    def full(memory):
        slots = memory.bank.number.shape[1]
        bank = memory.bank.replace(
            known=jnp.ones_like(memory.bank.known),
            number=jnp.arange(1, slots + 1)[None],
            written=jnp.array([slots]),
        )
        return memory.replace(bank=bank)

    frame = Frame(model, options, full)
    return [
        *frame.cases(),
        *read_cases(model.capacity, options),
        frame.part("segment", "decoder"),
        frame.part("memorize", "memory_encoder"),
    ]


def cfbi_cases(options: argparse.Namespace, model: CFBI) -> list[Case]:
    """CFBI or CFBI+: of the segmentation, both kinds of matching at all scales, the ensembler."""

    def matched(embedding, scale):
        return embedding[..., : model.matching_dims[scale]].astype(model.matching_dtype)

    def anywhere(variables, memory, features):
        return [
            global_matching(matched(x, i), reference, labels, memory.present.shape[1])
            for i, (x, reference, labels) in enumerate(
                zip(features.embeddings, memory.reference, memory.reference_labels, strict=True)
            )
        ]

    def within(variables, memory, features):
        found = []
        for i, (query, previous, labels) in enumerate(
            zip(features.embeddings, memory.previous, memory.previous_labels, strict=True)
        ):
            query, previous = matched(query, i), matched(previous, i)
            if model.local_halved:
                half = tuple(n // 2 + 1 for n in labels.shape[1:])
                query, previous = resize_bilinear(query, half), resize_bilinear(previous, half)
                labels = resize_nearest(labels, half, align_corners=False)
            windows, rate = model.scale_windows[i], model.local_rates[i]
            num_labels = memory.present.shape[1]
            found.append(multi_local_matching(query, previous, labels, num_labels, windows, rate))
        return found

    frame = Frame(model, options)
    return [
        *frame.cases(),
        Case("global matching", anywhere, frame.started, "segment"),
        Case("local matching", within, frame.started, "segment"),
        frame.part("segment", "ensembler"),
    ]


class Frame:
    """The second frame of a video and what is known by then, made when it is needed.

    prepare: what becomes of the memory after the first frame.
    """

    def __init__(
        self,
        model: VOSModel,
        options: argparse.Namespace,
        prepare: Callable[[Any], Any] = lambda memory: memory,
    ):
        self._model, self._prepare = model, prepare
        self._size, self._objects = tuple(options.frame), options.objects
        self.inputs, self.started = cache(self._inputs), cache(self._started)

    def cases(self) -> list[Case]:
        """The whole frame and its four stages."""
        call, size = self._call, self._size

        def whole(variables, memory, frames):
            features = call("encode")(variables, frames)
            return self._model.apply(variables, memory, features, size, method=advance)

        def memorize(variables, memory, features, masks):
            return call("memorize")(variables, memory, features, None, masks)

        def segmented():
            variables, memory, features = self.started()
            return variables, jax.jit(call("segment"))(variables, memory, features)

        return [
            Case(WHOLE, whole, lambda: (*self.started()[:2], self.inputs()[1])),
            Case("encode", call("encode"), self.inputs, WHOLE),
            Case("segment", call("segment"), self.started, WHOLE),
            Case("feedback", partial(call("feedback"), size=size), segmented, WHOLE),
            Case("memorize", memorize, lambda: (*self.started(), self._masks()), WHOLE),
        ]

    def part(self, stage: str, name: str) -> Case:
        """The submodule `name` alone, with what it is given within "segment" or "memorize"."""
        extra = {"segment": (), "memorize": (None, self._masks())}[stage]

        def given(variables, *arguments):
            seen = []

            def note(call, positional, keywords, context):
                if context.module.path == (name,) and context.method_name == "__call__":
                    seen.append(positional)
                return call(*positional, **keywords)

            with nn.intercept_methods(note):
                self._call(stage)(variables, *arguments)
            return seen[0]

        def arguments():
            variables, memory, features = self.started()
            return variables, *jax.jit(given)(variables, memory, features, *extra)

        def run(variables, *arguments):
            return self._model.apply(
                variables, *arguments, method=lambda model, *x: getattr(model, name)(*x)
            )

        return Case(name.replace("_", " "), run, arguments, stage)

    def _call(self, stage):
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
        """Variables, memory after the first frame, features."""
        variables, frames = self.inputs()
        features = jax.jit(self._call("encode"))(variables, frames)
        valid = jnp.ones((1, self._objects), bool)
        memory = jax.jit(self._call("start"))(variables, features, self._masks(), valid)
        return variables, self._prepare(memory), features
