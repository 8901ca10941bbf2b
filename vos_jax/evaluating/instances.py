"""Objects of single images against annotated ones: average precision of their masks (RIS, RSIS).

The algorithm is COCO's (metrics/average_precision.py), at the overlaps that the papers report. As
in the release of RSIS every object counts as a detection of each class, with the score it has for
that class. A system without classes is scored as if all objects were of one.

`results.json` holds the detections in COCO's form, with the annotation file's numbers of images and
categories. Several processes share the images, and all get the scores.
"""

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from ml_collections import ConfigDict

from vos_jax.data.painted import PaintedVideo
from vos_jax.data.rle import encode
from vos_jax.data.sources import open_sources
from vos_jax.evaluating.plan import on_every_process, require_metric
from vos_jax.files import write_whole
from vos_jax.inference.rollout import begin
from vos_jax.inference.setup import build_inference
from vos_jax.metrics.average_precision import Place, precision_and_recall
from vos_jax.metrics.protocols import INSTANCES
from vos_jax.metrics.text_table import format_table
from vos_jax.notes import progress_bar
from vos_jax.reporting.page import write_report
from vos_jax.systems.base import Instances, VOSModel
from vos_jax.systems.views import Views

OVERLAPS = {"AP50": 0.5, "AP60": 0.6, "AP70": 0.7, "AP80": 0.8}
METRICS = (*OVERLAPS, "AP")  # the last one is COCO's, over 0.5 to 0.95
ANY = "object"  # the class of systems without classes


@dataclass(frozen=True)
class InstanceResults:
    """Average precisions in 0..1, -1 without an object: mean over classes, and of each class.

    any_class: of objects whose class does not matter, each with its highest score. counts: what was
    compared.
    """

    scores: Mapping[str, float]
    any_class: Mapping[str, float]
    per_class: Mapping[str, Mapping[str, float]]
    counts: Mapping[str, int]

    def report(self) -> str:
        """The table and what it counts, as aligned text."""
        rows = [("class", *METRICS)]
        whole = {"mean": self.scores, "of any class": self.any_class}
        for name, found in {**self.per_class, **whole}.items():
            rows.append((name, *(f"{found[metric]:.3f}" for metric in METRICS)))
        counted = ", ".join(f"{count} {name}" for name, count in self.counts.items())
        return f"{format_table(rows)}\n\nprotocol {INSTANCES}: {counted}; overlaps are of masks."


class InstanceEvaluation:
    """What a config says about evaluation on images with instances, checked at once.

    It looks at the sections data, eval, inference and model.

    Raises:
        ValueError: sources without instances, classes that are not those of the model, or what
            `open_sources` and `build_inference` raise.
    """

    def __init__(self, config: ConfigDict):
        self._config = config
        self._model = build_inference(config).model
        if isinstance(self._model, Views):
            raise ValueError(
                "config.inference: expected scales (1.0,) and flip False, for objects have no"
                " common order in several views of an image"
            )
        sources = open_sources(config.data, "eval")
        videos = [video for source in sources for video in source.videos]
        if not all(isinstance(video, PaintedVideo) and len(video) == 1 for video in videos):
            raise ValueError(
                f"config.data.eval: protocol {INSTANCES} needs images with instances, such as of"
                " kind coco, polygons or synthetic_instances"
            )
        count = config.eval.get("videos", 0)
        if count > len(videos):
            raise ValueError(
                f"config.eval.videos: expected at most {len(videos)}, as many images as"
                f" config.data.eval has (0: all), found {count}"
            )
        self._videos = videos[:count] if count else videos
        self._names = tuple(config.data.classes)
        known = getattr(self._model, "classes", 0)
        if known == 0:
            self._names = (ANY,)
        elif len(self._names) != known - 1:
            raise ValueError(
                f"config.data.classes: expected the {known - 1} names of the classes that the model"
                f" knows besides that of no object (config.model.classes is {known}), found"
                f" {len(self._names)}"
            )

    def check_metric(self) -> None:
        """Raises ValueError unless config.eval.metric is one of METRICS."""
        require_metric(self._config.eval.metric, INSTANCES, METRICS)

    def scores(
        self, variables: Mapping[str, Any], out_dir: epath.PathLike, **options: bool
    ) -> dict[str, float]:
        """The numbers of a `run` with these options."""
        return dict(self.run(variables, out_dir, **options).scores)

    def run(
        self,
        variables: Mapping[str, Any],
        out_dir: epath.PathLike,
        *,
        write_masks: bool = True,
        overwrite: bool = False,
    ) -> InstanceResults:
        """Score the model with these variables; scores.json, tables.txt and (write_masks)
        results.json go to `out_dir`. FileExistsError where they are there already.
        """
        out_dir = epath.Path(out_dir)
        if (out_dir / "scores.json").exists() and not overwrite:
            raise FileExistsError(
                f"{out_dir} holds results already: scores.json; choose another folder or allow "
                "overwriting (--overwrite)"
            )
        variables = jax.device_put(variables)
        process, processes = jax.process_index(), jax.process_count()
        videos = progress_bar(
            self._videos[process::processes],
            desc="evaluate",
            unit="image",
            shown=not process,
        )
        parts = on_every_process(lambda: [self._image(variables, video) for video in videos])
        images = sorted((image for part in parts for image in part), key=lambda x: x["image_id"])
        results = _scored(images, self._names)
        if process == 0:
            self._write(out_dir, results, images if write_masks else [])
            print(results.report())
        return results

    def _image(self, variables: Mapping[str, Any], video: PaintedVideo) -> dict[str, Any]:
        """Detections of an image, and how they overlap its objects, as JSON can hold it."""
        frame, source = video.frame(0), video.source
        inputs = jax.tree.map(lambda x: x[None], self._model.preprocess(frame))
        answer = finder(self._model)(variables, inputs, size=frame.shape[:2])
        answer = jax.tree.map(lambda x: x[0], jax.device_get(answer))
        masks, scores = answer.masks[answer.kept], answer.scores[answer.kept]
        categories = [self._class_of(source.categories[k - 1]) for k in source.classes]
        truths = np.array(categories, int) * source.valid[0]  # 0: not one of ours, or not seen
        places = _places(masks, scores, source.masks(0), truths, source.crowd)
        # the numbers that the annotation file has; of classes that it does not know nothing is said
        numbers = {ANY: 1} | dict(zip(source.categories, source.category_ids, strict=True))
        rles = encode(masks) if len(masks) else []
        detections = [
            {
                "image_id": source.video_id,
                "category_id": numbers[name],
                "segmentation": rle,
                "score": float(score),
            }
            for rle, row in zip(rles, scores, strict=True)
            for name, score in zip(self._names, row, strict=True)
            if name in numbers
        ]
        found = {"image_id": source.video_id, "found": len(masks)}
        return {**found, "detections": detections, "places": places}

    def _class_of(self, category: str) -> int:
        """1.. of the model's classes, or 0."""
        if self._names == (ANY,):
            return 1
        return self._names.index(category) + 1 if category in self._names else 0

    def _write(
        self, out_dir: epath.Path, results: InstanceResults, images: Sequence[Mapping]
    ) -> None:
        out_dir.mkdir(parents=True, exist_ok=True)
        if images:
            detections = [detection for image in images for detection in image["detections"]]
            write_whole(out_dir / "results.json", json.dumps(detections).encode())
        content = {
            "protocol": INSTANCES,
            "metrics": dict(results.scores),
            "any_class": dict(results.any_class),
            "per_class": dict(results.per_class),
            "settings": dict(results.counts),
        }
        write_whole(out_dir / "scores.json", (json.dumps(content, indent=2) + "\n").encode())
        write_whole(out_dir / "tables.txt", f"{results.report()}\n".encode())
        write_report(out_dir, overwrite=True)


@functools.lru_cache(maxsize=8)
def finder(model: VOSModel) -> Callable[..., Instances]:
    """The compiled function (variables, prepared frames [B, h, w, 3], size=(H, W)) -> objects.

    The network compiles once for each h and w; for each H and W the last step alone, for images
    come in many sizes.
    """

    @jax.jit
    def segment(variables, inputs):
        features = model.apply(variables, inputs, method=model.encode)
        slots = jnp.ones((len(inputs), model.traits.proposals), bool)
        first = (features, inputs.shape[1:3], None, slots)
        return model.apply(variables, *first, method=begin)[1]

    @functools.partial(jax.jit, static_argnames="size")
    def enlarge(variables, prediction, *, size):
        return model.apply(variables, prediction, size, method=model.instances)

    return lambda variables, inputs, size: enlarge(variables, segment(variables, inputs), size=size)


def overlaps_of(found: np.ndarray, truths: np.ndarray, crowd: np.ndarray) -> np.ndarray:
    """IoU of masks bool [D, H, W] and [G, H, W], float [D, G]; of a crowd the share inside it."""
    pixels = found.shape[1] * found.shape[2]
    found, truths = (x.reshape(-1, pixels).astype(np.float32) for x in (found, truths))
    both = (found @ truths.T).astype(np.float64)
    sizes = found.sum(axis=1, dtype=np.float64)[:, None]
    either = np.where(crowd, sizes, sizes + truths.sum(axis=1, dtype=np.float64) - both)
    return both / np.maximum(either, 1)


def _places(masks, scores, truth_masks, truths, crowd) -> list[dict[str, list]]:
    """Of each class, and then of any, the arguments of `Place.of`, as lists."""
    overlaps = overlaps_of(masks, truth_masks, crowd)
    classes = [(truths == k + 1, scores[:, k]) for k in range(scores.shape[1])]
    found = []
    for own, of_class in [*classes, (truths > 0, scores.max(axis=1))]:
        place = {"overlaps": overlaps[:, own], "scores": of_class, "crowd": crowd[own]}
        found.append({name: np.asarray(x).tolist() for name, x in place.items()})
    return found


def _scored(images: Sequence[Mapping[str, Any]], names: Sequence[str]) -> InstanceResults:
    places = [[_place(image["places"][k]) for image in images] for k in range(len(names) + 1)]
    *classes, whole = places
    each = {name: _metrics([places]) for name, places in zip(names, classes, strict=True)}
    truths = sum(int((~place.crowd).sum()) for place in whole)
    found = sum(image["found"] for image in images)
    counts = {"images": len(images), "objects": truths, "found": found}
    return InstanceResults(_metrics(classes), _metrics([whole]), each, counts)


def _place(lists: Mapping[str, list]) -> Place:
    shape = len(lists["scores"]), len(lists["crowd"])
    return Place.of(np.reshape(lists["overlaps"], shape), lists["scores"], crowd=lists["crowd"])


def _metrics(classes: Sequence[Sequence[Place]]) -> dict[str, float]:
    curves = precision_and_recall(classes)
    at = {name: curves.average_precision(threshold) for name, threshold in OVERLAPS.items()}
    return at | {"AP": curves.average_precision()}
