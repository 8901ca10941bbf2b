"""From a config to the way in which its model is run."""

import math
import numbers
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vos_jax.inference.crf import CRF, CRFSegmenter, crf_of
from vos_jax.inference.streaming import VideoSegmenter
from vos_jax.systems.base import VOSModel
from vos_jax.systems.build import as_tuples, build_model
from vos_jax.systems.views import Views


@dataclass(frozen=True)
class Inference:
    """A model as a config runs it.

    Attributes:
        model: the module, in views where the config asks for them.
        slots: object slots to start with; 0: as many as there are objects.
        seed: of the choice of reference frames.
        crf: the field that results go through, or None.
    """

    model: VOSModel
    slots: int = 0
    seed: int = 0
    crf: CRF | None = None

    def segmenter(self, variables: Mapping[str, Any], ids: Sequence[int] = ()) -> VideoSegmenter:
        """A fresh segmenter; ids: those that are known to come."""
        options = dict(slots=self.slots or None, ids=ids)
        if self.crf is not None:
            return CRFSegmenter(self.crf, self.model, variables, **options)
        return VideoSegmenter(self.model, variables, **options)

    def reference_frames(self, length: int) -> tuple[int, ...]:
        """Which frames of a video of this length its segmenter is to observe first; often none."""
        return self.model.reference_frames(length, self.seed)


def build_inference(config: Mapping[str, Any]) -> Inference:
    """What the sections model and inference of a config, and its seed, describe.

    Of the inference section `slots` is for the segmenter, scales and flip choose the views that are
    averaged (systems.views), crf says whether results go through the field with crf_settings
    (inference.crf); every other field replaces one of the module's that leaves the variables as
    they are, such as the bounds of a memory.

    Raises ValueError where a field is wrong.
    """
    fields = dict(config.get("inference", {}))
    slots = fields.pop("slots", 0)
    crf, settings = fields.pop("crf", False), fields.pop("crf_settings", {})
    scales, flip = as_tuples(fields.pop("scales", (1.0,))), fields.pop("flip", False)
    if not _are_scales(scales):
        raise ValueError(
            "config.inference.scales: expected one or more positive numbers such as (1.0, 1.3), "
            f"found {scales!r}"
        )
    model = build_model(config["model"], **fields)
    if flip or scales != (1.0,):
        model = Views(model, scales, flip)
    seed = config.get("seed", 0)
    return Inference(model, slots, seed, crf_of(settings) if crf else None)


def _are_scales(scales: Any) -> bool:
    def positive(x):
        return isinstance(x, numbers.Real) and not isinstance(x, bool) and 0 < x < math.inf

    return isinstance(scales, tuple) and bool(scales) and all(map(positive, scales))
