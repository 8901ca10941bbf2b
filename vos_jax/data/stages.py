"""The examples of a whole run: one kind, one after another, or two kinds by turns."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from vos_jax.data.example import ExampleSequence
from vos_jax.data.pipeline import Examples

STAGES = ("main", "pretrain", "alternate")
COUNTERS = ("steps", "every")  # say when a stage's examples come, not what they are


class _Combined:
    """Two sequences of examples of one form."""

    def __init__(self, field: str, first: ExampleSequence, second: ExampleSequence):
        if _form(first) != _form(second):
            raise ValueError(
                f"config.data.{field}: expected examples of the main stage's shapes"
                f" {_form(second)}, found {_form(first)}; frames, crop and max_objects settle them"
            )
        self.first, self.second = first, second

    def columns(self) -> dict[str, Any]:
        """An empty example."""
        return self.second.columns()

    @property
    def bad_clips(self) -> int:
        """Files that could not be read so far."""
        return self.first.bad_clips + self.second.bad_clips


def _form(examples: ExampleSequence) -> dict[str, tuple[int, ...]]:
    columns = examples.columns().items()
    return {name: x.shape for name, x in columns if isinstance(x, np.ndarray)}


class Staged(_Combined):
    """Two training stages: the first `count` examples are the first stage's.

    The second stage's examples are counted from its beginning.
    """

    def __init__(self, first: ExampleSequence, count: int, second: ExampleSequence):
        super().__init__("pretrain", first, second)
        self._count = int(count)

    def example(self, i: int) -> dict:
        """Training example i, see `Examples.example`."""
        if i < self._count:
            return self.first.example(i)
        return self.second.example(i - self._count)


class Alternating(_Combined):
    """Two kinds of steps by turns: of every `every` steps the first draws from `first`.

    Example i belongs to step i // batch; the examples of each kind are counted without the other's.
    """

    def __init__(self, first: ExampleSequence, every: int, second: ExampleSequence, batch: int):
        super().__init__("alternate", first, second)
        self._every, self._batch = int(every), int(batch)

    def example(self, i: int) -> dict:
        """Training example i, see `Examples.example`."""
        step, row = divmod(i, self._batch)
        turn, place = divmod(step, self._every)
        if place == 0:
            return self.first.example(turn * self._batch + row)
        return self.second.example((step - turn - 1) * self._batch + row)


def training_examples(
    config: Mapping[str, Any], of: Callable[..., ExampleSequence] = Examples.of
) -> ExampleSequence:
    """The examples of a run.

    config: data, seed and train.batch. data.alternate holds what is different in the first of every
    data.alternate.every steps, data.pretrain what is different in the first data.pretrain.steps
    steps; their keys replace those of data. of: function of a section config.data and a seed that
    makes the examples of a stage.
    """
    data, batch = config["data"], config["train"]["batch"]
    examples: ExampleSequence = stage_examples(config, "main", of)
    if every := data["alternate"]["every"]:
        examples = Alternating(stage_examples(config, "alternate", of), every, examples, batch)
    if steps := data["pretrain"]["steps"]:
        examples = Staged(stage_examples(config, "pretrain", of), steps * batch, examples)
    return examples


def stage_examples(
    config: Mapping[str, Any], stage: str, of: Callable[..., ExampleSequence] = Examples.of
) -> ExampleSequence:
    """The examples of one of STAGES alone, whether or not the run has it; arguments: as above."""
    data = config["data"]
    own = {} if stage == "main" else data[stage]
    return of({**data, **{k: v for k, v in own.items() if k not in COUNTERS}}, config["seed"])
