"""Scoring objects of images: overlaps by counting, and answers whose score is known."""

import json

import numpy as np
import pytest

from tests.data.test_still_instances import coco
from vos_jax.configs.rvos import get_config
from vos_jax.data.sources import open_sources
from vos_jax.evaluating import instances
from vos_jax.evaluating.instances import METRICS, InstanceEvaluation, overlaps_of
from vos_jax.systems.base import Instances


def test_overlaps_count_pixels_and_a_crowd_holds_what_is_inside():
    rng = np.random.default_rng(0)
    found, truths = rng.random((3, 6, 7)) < 0.5, rng.random((4, 6, 7)) < 0.5
    crowd = np.array([False, False, True, False])
    overlaps = overlaps_of(found, truths, crowd)
    for d, g in np.ndindex(3, 4):
        both = (found[d] & truths[g]).sum()
        either = found[d].sum() if crowd[g] else (found[d] | truths[g]).sum()
        assert overlaps[d, g] == pytest.approx(both / either)
    assert overlaps_of(found[:0], truths, crowd).shape == (0, 4)
    assert overlaps_of(found, truths[:0], crowd[:0]).shape == (3, 0)


@pytest.fixture
def config():
    config = get_config("rsis_quick")
    config.data.eval.synthetic.images = 6
    return config


def answers(config, change):
    """A stand-in for the compiled model that knows the truth and then changes it."""
    videos = iter([video.source for video in open_sources(config.data, "eval")[0].videos])

    def find(variables, inputs, *, size):
        video = next(videos)
        masks, slots = video.masks(0), 4
        scores = np.zeros((slots, 3), np.float32)
        scores[range(len(masks)), video.classes - 1] = 0.9
        room = slots - len(masks)
        padded = np.pad(masks, ((0, room), (0, 0), (0, 0)))
        kept = np.arange(slots) < len(masks)
        found = Instances(padded, scores, np.zeros((slots, 4), np.float32), kept)
        return Instances(*(x[None] for x in change(found)))

    return lambda model: find


CHANGES = {
    "none": (lambda x: x, 1.0, 1.0),
    "classes": (lambda x: x._replace(scores=np.roll(x.scores, 1, axis=1)), 0.0, 1.0),
    "places": (lambda x: x._replace(masks=~x.masks), 0.0, 0.0),
    "nothing": (lambda x: x._replace(kept=np.zeros_like(x.kept)), 0.0, 0.0),
}


@pytest.mark.parametrize("changed", CHANGES)
def test_answers_get_the_score_that_they_deserve(config, tmp_path, monkeypatch, changed):
    change, expected, any_class = CHANGES[changed]
    monkeypatch.setattr(instances, "finder", answers(config, change))
    results = InstanceEvaluation(config).run({}, tmp_path)
    content = json.loads((tmp_path / "scores.json").read_text())
    assert content["metrics"] == results.scores
    assert tuple(content["metrics"]) == METRICS
    if changed != "classes":
        assert content["metrics"]["AP50"] == pytest.approx(expected)
    else:  # of a class that no object has been given, some may have been there by chance
        assert content["metrics"]["AP50"] < 0.5
    assert content["any_class"]["AP"] == pytest.approx(any_class)
    assert content["settings"]["images"] == 6
    detections = json.loads((tmp_path / "results.json").read_text())
    assert len(detections) == 3 * content["settings"]["found"]
    assert {"image_id", "category_id", "segmentation", "score"} == (
        set().union(*detections) or {"image_id", "category_id", "segmentation", "score"}
    )
    table = (tmp_path / "tables.txt").read_text()
    assert "of any class" in table and "triangle" in table
    with pytest.raises(FileExistsError, match="holds results already"):
        InstanceEvaluation(config).run({}, tmp_path)


def test_what_cannot_be_scored_is_named(config):
    InstanceEvaluation(config).check_metric()
    config.eval.metric = "J&F-Mean"
    with pytest.raises(ValueError, match="config.eval.metric: protocol instances reports AP50, AP"):
        InstanceEvaluation(config).check_metric()
    config.eval.videos = 7
    with pytest.raises(ValueError, match="config.eval.videos: expected at most 6.*found 7"):
        InstanceEvaluation(config)
    config.eval.videos = 0
    config.data.classes = ("disc", "square")
    with pytest.raises(ValueError, match="config.data.classes: expected the 3 names .*found 2"):
        InstanceEvaluation(config)
    config.inference.flip = True
    with pytest.raises(ValueError, match="config.inference: expected scales .*no common order"):
        InstanceEvaluation(config)


def test_sources_without_instances_are_refused(config):
    config.data.eval = {"clips": {"kind": "synthetic", "split": "test"}}
    with pytest.raises(ValueError, match="config.data.eval: protocol instances needs images"):
        InstanceEvaluation(config)


def test_systems_without_classes_are_scored_as_if_there_were_one(tmp_path, monkeypatch):
    config = get_config("ris_quick")
    config.data.eval.synthetic.images = 6
    whole = lambda x: x._replace(scores=x.scores.max(axis=1, keepdims=True))  # noqa: E731
    monkeypatch.setattr(instances, "finder", answers(config, whole))
    results = InstanceEvaluation(config).run({}, tmp_path, write_masks=False)
    assert results.scores["AP80"] == 1 and list(results.per_class) == ["object"]
    assert not (tmp_path / "results.json").exists()


def test_results_have_the_numbers_of_the_annotation_file(tmp_path, monkeypatch):
    config = get_config("rsis_quick")
    config.data.eval = {"coco": {"kind": "coco", "dir": str(coco(tmp_path)), "split": "val"}}
    config.data.classes, config.model.classes = ("zebra", "dog", "cat"), 4  # the file: cat, dog
    scores = np.eye(4, 3, k=1, dtype=np.float32)[None]  # a dog, then a cat

    def find(variables, inputs, *, size):
        masks, boxes = np.ones((1, 4, *size), bool), np.zeros((1, 4, 4), np.float32)
        return Instances(masks, scores, boxes, np.array([[True, True, False, False]]))

    monkeypatch.setattr(instances, "finder", lambda model: find)
    results = InstanceEvaluation(config).run({}, tmp_path / "out")
    found = json.loads((tmp_path / "out/results.json").read_text())
    named = {(x["image_id"], x["category_id"]) for x in found if x["score"] > 0}
    assert named == {(12, 7), (12, 3), (40, 7), (40, 3)}
    assert {x["category_id"] for x in found} == {7, 3}
    assert results.counts == {"images": 2, "objects": 1, "found": 4}  # a crowd is none
    assert results.per_class["zebra"]["AP50"] == -1
