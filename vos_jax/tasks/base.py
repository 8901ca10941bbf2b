"""What the families of systems differ in, as one value; commands never ask which family it is."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from absl import flags
from ml_collections import ConfigDict

from vos_jax.data.example import ExampleSequence
from vos_jax.data.frames import FrameSource
from vos_jax.train.step import Objective


class Scoring(Protocol):
    """What a config says about evaluation, checked when it is made: it may be run hours later."""

    def check_metric(self) -> None:
        """Raises ValueError unless config.eval.metric is among what is reported."""

    def scores(
        self,
        variables: Mapping[str, Any],
        out_dir: Any,
        *,
        write_masks: bool = True,
        overwrite: bool = False,
    ) -> dict[str, float]:
        """Score the model with these variables on config.data.eval and write the results.

        write_masks: also what it found, not its numbers alone. On several processes all get the
        numbers. Raises FileExistsError where results exist and `overwrite` is not set.
        """


@dataclass(frozen=True)
class Task:
    """One family.

    Attributes:
        examples: function of a config -> the training examples of a run.
        objective: function of a model and of config.train and config.loss -> what training
            minimises, see `train.step.Objective`.
        scoring: function of a config -> `Scoring`.
        segmenter: function of a config and variables -> what segments a video by `step`.
        segment: function of the flags of vos_jax.segment, the frames, a config and variables; it
            segments a user's video and says what was written.
    """

    examples: Callable[[ConfigDict], ExampleSequence]
    objective: Callable[[Any, Mapping[str, Any], Mapping[str, Any]], Objective]
    scoring: Callable[[ConfigDict], Scoring]
    segmenter: Callable[[ConfigDict, Mapping[str, Any]], Any]
    segment: Callable[[flags.FlagValues, FrameSource, ConfigDict, Mapping[str, Any]], str]
