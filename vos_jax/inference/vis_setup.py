"""From a config to the way in which a system for instances is run."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from vos_jax.checkpoint_folder import import_variables
from vos_jax.inference.gaps import FillingLinker
from vos_jax.inference.instances import InstanceSegmenter, ModelLinker
from vos_jax.inference.linking.base import Linker, NoLinker
from vos_jax.inference.linking.deepsort import DeepSort
from vos_jax.inference.linking.feelvos import PropagationLinker
from vos_jax.inference.linking.flow import FlowLinker
from vos_jax.inference.linking.iou import BoxLinker
from vos_jax.inference.setup import build_inference
from vos_jax.inference.tracks import AGGREGATES
from vos_jax.systems.build import build_model
from vos_jax.systems.vis_base import VISModel

MODEL = "model"  # the linker that is the system's own rule
PROPAGATION = "propagation"
TRACK_HEAD = "track_head"  # MaskTrack R-CNN's rule, of a system that has its head beside its own
LINKERS: Mapping[str, Callable[[], Linker]] = {
    "none": NoLinker,
    "iou": BoxLinker,
    "flow": FlowLinker,
    "deepsort": DeepSort,
}
NAMES = (MODEL, TRACK_HEAD, *LINKERS, PROPAGATION)


@dataclass(frozen=True)
class VISInference:
    """A model as a config runs it.

    Attributes:
        model: the module.
        linker: a name in NAMES.
        aggregate: how a track's score and class come about, see `inference.tracks`.
        propagation: checkpoint of the system that the linker of this name follows objects with,
            such as a FEELVOS.
    """

    model: VISModel
    linker: str = MODEL
    aggregate: str = AGGREGATES[0]
    propagation: str = ""

    def segmenter(self, variables: Mapping[str, Any]) -> InstanceSegmenter:
        """A fresh segmenter with the linker of the config."""
        linker = self.begin(self.linker, variables)
        return InstanceSegmenter(self.model, variables, linker, self.aggregate)

    def begin(self, name: str, variables: Mapping[str, Any]) -> Linker | ModelLinker:
        """A linker for a new video."""
        if name == TRACK_HEAD:
            return ModelLinker(self.model.clone(linked_by=TRACK_HEAD), variables)
        if name == MODEL:
            fills = getattr(self.model, "fill_missing", False)
            return (FillingLinker if fills else ModelLinker)(self.model, variables)
        if name == PROPAGATION:
            weights, config = import_variables(self.propagation)
            return PropagationLinker(build_inference(config).segmenter(weights))
        return LINKERS[name]()


def build_vis_inference(config: Mapping[str, Any]) -> VISInference:
    """What the sections model and inference of a config describe.

    Of the inference section `linker`, `aggregate` and `propagation` are those of `VISInference`;
    every other field replaces one of the module's that leaves the variables as they are.

    Raises ValueError where a field is wrong.
    """
    fields = dict(config.get("inference", {}))
    own = {name: fields.pop(name) for name in ("linker", "aggregate", "propagation")}
    if own["aggregate"] not in AGGREGATES:
        raise ValueError(
            f"config.inference.aggregate: expected one of {AGGREGATES}, found {own['aggregate']!r}"
        )
    inference = VISInference(build_model(config["model"], **fields), **own)
    check_linkers(inference, [own["linker"]], "config.inference.linker")
    return inference


def check_linkers(inference: VISInference, names: list[str], field: str) -> None:
    """Raises ValueError for a linker that is unknown, or that this model or config lacks."""
    for name in names:
        if name not in NAMES:
            raise ValueError(f"{field}: expected one of {NAMES}, found {name!r}")
        if name == PROPAGATION and not inference.propagation:
            raise ValueError(
                f"{field}: {PROPAGATION!r} needs config.inference.propagation, the checkpoint of a"
                " system that follows given masks, such as FEELVOS"
            )
        if name == TRACK_HEAD and not hasattr(inference.model, "linked_by"):
            raise ValueError(
                f"{field}: {type(inference.model).__name__} has no head for {TRACK_HEAD!r} beside"
                f" its own rule; choose one of {(MODEL, *LINKERS, PROPAGATION)}"
            )
        if name == MODEL and type(inference.model).link is VISModel.link:
            raise ValueError(
                f"{field}: {type(inference.model).__name__} detects and links nothing itself;"
                f" choose one of {(*LINKERS, PROPAGATION)}"
            )
