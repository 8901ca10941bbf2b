"""What RSIS and RIS alone promise, on small networks; released numbers are in test_release.py."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from tests.tiny import quick_compilation, tiny_system
from vos_jax.evaluating.instances import finder
from vos_jax.inference.rollout import rollout
from vos_jax.inference.streaming import VideoSegmenter
from vos_jax.ops.losses import relaxed_iou_costs, soft_iou_costs
from vos_jax.ops.mask_boxes import boxes_around
from vos_jax.systems.build import variable_shapes
from vos_jax.systems.rsis.images import Prediction
from vos_jax.systems.rsis.model import RSIS
from vos_jax.systems.rsis.ris import RIS

SIZE, BATCH, SLOTS = (16, 20), 3, 4


@pytest.fixture(scope="module", autouse=True)
def quickly():
    with quick_compilation():
        yield


@functools.cache
def system(name, **fields):
    return tiny_system(name, **fields)


def said(slots=SLOTS, classes=5, seed=0, **changes):
    """A prediction of random numbers for three images, one frame of each."""
    rng = np.random.default_rng(seed)
    shape = (1, BATCH, slots)
    fields = {
        "logits": rng.normal(size=(*shape, *SIZE)),
        "there": rng.normal(size=shape),
        "classes": rng.normal(size=(*shape, classes)) if classes else None,
        "boxes": rng.uniform(size=(*shape, 4)),
    }
    fields = jax.tree.map(jnp.float32, fields)
    return Prediction(**fields | {"decoded": jnp.ones(shape, bool), "size": SIZE} | changes)


def images(counts=(1, 2, 4), order=(1, 2, 3, 4)):
    """Labels with so many squares each, valid slots and classes."""
    rng = np.random.default_rng(1)
    labels = np.zeros((BATCH, 1, *SIZE), np.uint8)
    for image, count in zip(labels, counts, strict=True):
        for k in range(count):
            top, left = 4 * k, rng.integers(SIZE[1] - 6)
            image[0, top : top + 4, left : left + 6] = order[k]
    valid = np.array([np.isin(range(1, SLOTS + 1), order[:count]) for count in counts])
    classes = np.where(valid, rng.integers(1, 5, (BATCH, SLOTS)), 0)
    return {"labels": labels, "valid": valid, "classes": classes.astype(np.int32)}


def written_out(prediction, batch, limit=SLOTS):
    """The parts of the loss of RSIS, image by image, with scipy's assignment."""
    masks, classes, stops, boxes = [], [], [], []
    for b in range(BATCH):
        n = int(batch["valid"][b].sum())
        used = min(n, limit)
        truth = np.stack([batch["labels"][b, 0] == k + 1 for k in range(n)]).astype(np.float32)
        maps = jax.nn.sigmoid(prediction.logits[0, b, :used])
        costs = np.asarray(soft_iou_costs(maps, truth))
        rows, columns = linear_sum_assignment(costs)
        masks += costs[rows, columns].tolist()
        logs = np.asarray(jax.nn.log_softmax(prediction.classes[0, b]))
        classes += [-logs[s, batch["classes"][b, k]] for s, k in zip(rows, columns, strict=True)]
        around = np.asarray(boxes_around(jnp.asarray(truth > 0))) / np.tile(SIZE[::-1], 2)
        found = np.asarray(prediction.boxes[0, b])
        boxes += [np.abs(found[s] - around[k]).mean() for s, k in zip(rows, columns, strict=True)]
        for s in range(min(n + 1, limit)):
            x = float(prediction.there[0, b, s])
            stops.append(0.5 * np.logaddexp(0, -x if s < n else x))
    return {name: np.mean(x) for name, x in locals().items() if isinstance(x, list)}


@pytest.fixture(scope="module")
def model():
    return RSIS(classes=5, proposals=SLOTS, boxes=True)


def test_the_loss_is_that_of_the_cheapest_pairs_written_out(model):
    prediction, batch = said(), images()
    parts = written_out(prediction, batch)
    weights = {"box_weight": 0.7, "class_weight": 0.3, "stop_weight": 0.4}
    losses = model.losses(prediction, batch, jnp.int32(0), **weights)
    expected = parts["masks"] + 0.7 * parts["boxes"] + 0.3 * parts["classes"] + 0.4 * parts["stops"]
    np.testing.assert_allclose(losses.mean(), expected, rtol=1e-5)


@pytest.mark.parametrize("part", ["box", "class", "stop"])
def test_a_part_joins_at_its_step(model, part):
    prediction, batch = said(), images()
    parts = written_out(prediction, batch)
    others = {f"{name}_weight": 0.5 * (name == part) for name in ("box", "class", "stop")}
    value = {"box": "boxes", "class": "classes", "stop": "stops"}[part]
    run = jax.jit(
        lambda step: model.losses(prediction, batch, step, **others, **{f"{part}_from": 9})
    )
    before, after = run(jnp.int32(8)).mean(), run(jnp.int32(9)).mean()
    np.testing.assert_allclose(before, parts["masks"], rtol=1e-5)
    np.testing.assert_allclose(after, parts["masks"] + 0.5 * parts[value], rtol=1e-5)


@pytest.mark.parametrize(("step", "limit"), [(0, 2), (9, 2), (10, 3), (20, 4), (999, 4)])
def test_the_curriculum_begins_with_few_slots_and_grows(model, step, limit):
    prediction, batch = said(), images()
    weights = {"box_weight": 0.0, "class_weight": 0.1, "stop_weight": 0.5}
    growth = {"curriculum_start": 2, "curriculum_step": 1, "curriculum_every": 10}
    losses = model.losses(prediction, batch, jnp.int32(step), **weights, **growth)
    parts = written_out(prediction, batch, limit)
    expected = parts["masks"] + 0.1 * parts["classes"] + 0.5 * parts["stops"]
    np.testing.assert_allclose(losses.mean(), expected, rtol=1e-5)


def test_slots_of_objects_that_are_not_to_be_seen_change_nothing(model):
    """Ids with gaps are those without gaps: the order of objects means nothing."""
    usual, gaps = images(counts=(1, 2, 3)), images(counts=(1, 2, 3), order=(4, 1, 3, 2))
    gaps["valid"][:] = True  # also of ids that no pixel has
    gaps["classes"] = usual["classes"][:, [1, 3, 2, 0]]
    found = [model.losses(said(), batch, jnp.int32(0)) for batch in (usual, gaps)]
    np.testing.assert_allclose(found[1], found[0], rtol=1e-5)


def test_the_gradient_reaches_paired_slots_and_the_one_that_ends_alone(model):
    prediction, batch = said(), images()

    def loss(logits, there):
        changed = prediction.replace(logits=logits, there=there)
        return model.losses(changed, batch, jnp.int32(0)).sum()

    masks, stops = jax.grad(loss, (0, 1))(prediction.logits, prediction.there)
    moved = np.abs(masks[0]).max(axis=(2, 3)) > 0
    np.testing.assert_array_equal(moved, np.arange(SLOTS) < [[1], [2], [4]])
    np.testing.assert_array_equal(np.abs(stops[0]) > 0, np.arange(SLOTS) < [[2], [3], [4]])


def test_examples_without_classes_train_none(model):
    prediction, batch = said(), images()
    without = {**batch, "classes": np.zeros_like(batch["classes"])}
    found = model.losses(prediction, without, jnp.int32(0), class_weight=9.0)
    del batch["classes"]
    np.testing.assert_allclose(found, model.losses(prediction, batch, jnp.int32(0)), rtol=1e-6)


def test_slots_that_are_less_sure_are_left_out_whatever_comes_after_them(model):
    there = jnp.float32([[2.0, -1.0, 1.0, 0.0]])
    prediction = jax.tree.map(lambda x: x[0, :1], said()).replace(there=there)
    assert model.kept(prediction)[0].tolist() == [True, False, True, True]
    ris = RIS(proposals=SLOTS)  # whose sequence ends there
    assert ris.kept(prediction)[0].tolist() == [True, False, False, False]


def test_instances_have_scores_of_each_class_boxes_and_enough_pixels():
    logits = np.full((1, 1, SLOTS, *SIZE), -5.0, np.float32)
    logits[0, 0, 0, 4:8, 5:15] = logits[0, 0, 1, 2, 3] = 5
    prediction = said(logits=logits, there=jnp.zeros((1, BATCH, SLOTS)))
    prediction = jax.tree.map(lambda x: x[0, :1], prediction).replace(boxes=None)
    model = RSIS(classes=5, proposals=SLOTS, min_share=0.01)
    found = model.instances(prediction, SIZE)
    assert found.masks.dtype == bool and found.masks.sum(axis=(2, 3))[0].tolist() == [40, 1, 0, 0]
    assert found.kept[0].tolist() == [True, False, False, False]
    assert found.boxes[0, 0].tolist() == [5, 4, 15, 8]
    assert found.boxes[0, 1].tolist() == [3, 2, 4, 3]
    assert found.boxes[0, 2].tolist() == [0, 0, 0, 0]
    classes = jax.nn.softmax(prediction.classes)[0, :, 1:]
    np.testing.assert_allclose(found.scores[0], classes / 2, rtol=1e-5)
    larger = model.instances(prediction, (32, 40))
    assert larger.masks.shape == (1, SLOTS, 32, 40)


def test_the_head_for_boxes_gives_pixels_of_the_frame():
    model, variables = system("rsis", boxes=True)
    frame = np.random.default_rng(0).integers(0, 256, (1, 48, 64, 3)).astype(np.float32)
    found = finder(model)(variables, frame, size=(96, 128))
    assert found.boxes.shape == (1, model.proposals, 4)
    limits = np.array([128, 96, 128, 96])
    assert (found.boxes >= 0).all() and (found.boxes <= limits).all() and found.boxes.max() > 1


@pytest.mark.parametrize("name", ["rsis", "ris"])
def test_odd_sizes_give_masks_of_the_frame_and_every_frame_is_an_image_of_its_own(name):
    model, variables = system(name, threshold=0.0)  # all slots are objects
    frames = np.random.default_rng(1).integers(0, 256, (2, 45, 59, 3)).astype(np.uint8)
    segmenter, said = VideoSegmenter(model, variables), []
    for frame in (*frames, frames[0]):
        labels = segmenter.step(frame)
        assert labels.shape == (45, 59) and labels.max() <= model.proposals
        said.append(segmenter.probabilities())
    np.testing.assert_array_equal(said[2], said[0])
    assert np.abs(said[1] - said[0]).max() > 1e-3


@pytest.mark.parametrize("name", ["rsis", "ris"])
def test_training_decodes_the_objects_and_what_learns_the_end(name):
    model, variables = system(name, norm_eval=True)
    inputs = np.zeros((1, 1, 32, 32, 3), np.float32)
    masks = np.zeros((1, 1, 4, 32, 32), np.float32)
    valid = np.array([[True, False, False]])
    run = jax.jit(functools.partial(rollout, model, num_given=0, train=True))
    prediction, _ = run(variables, inputs, masks, valid, rng=jax.random.key(0))
    last = 2 if name == "rsis" else 3
    decoded = np.asarray(prediction.decoded[0, 0])
    assert decoded.tolist() == [s < last for s in range(len(decoded))]
    assert len(decoded) == model.proposals + (0 if name == "rsis" else 2)


def test_ris_matches_the_first_n_steps_and_is_sure_of_them_alone():
    model = RIS(proposals=SLOTS)
    prediction, batch = said(slots=SLOTS + 2, classes=0), images()
    masks, ends = [], []
    for b in range(BATCH):
        n = int(batch["valid"][b].sum())
        truth = np.stack([batch["labels"][b, 0] == k + 1 for k in range(n)]).astype(np.float32)
        costs = np.asarray(relaxed_iou_costs(jax.nn.sigmoid(prediction.logits[0, b, :n]), truth))
        masks += costs[linear_sum_assignment(costs)].tolist()
        there = np.asarray(prediction.there[0, b, : n + 2])
        ends += np.logaddexp(0, np.where(np.arange(n + 2) < n, -there, there)).tolist()
    losses = model.losses(prediction, batch, jnp.int32(0), confidence_weight=0.5)
    np.testing.assert_allclose(losses.mean(), np.mean(masks) + 0.5 * np.mean(ends), rtol=1e-5)
    other = model.losses(prediction, batch, jnp.int32(0), iou="soft")
    assert np.abs(other - model.losses(prediction, batch, jnp.int32(0))).max() > 0.01
    with pytest.raises(ValueError, match="config.loss.iou: expected one of .*found 'hard'"):
        model.losses(prediction, batch, jnp.int32(0), iou="hard")


def test_the_relaxed_iou_has_the_product_in_the_sum():
    rng = np.random.default_rng(3)
    maps, masks = rng.random((2, 5, 6)), rng.integers(0, 2, (3, 5, 6)).astype(float)
    found = relaxed_iou_costs(jnp.float32(maps), jnp.float32(masks))
    for m, k in np.ndindex(2, 3):
        both = (maps[m] * masks[k]).sum()
        expected = 1 - both / (maps[m].sum() + masks[k].sum() + both)
        np.testing.assert_allclose(found[m, k], expected, rtol=1e-5)
    same = relaxed_iou_costs(jnp.ones((1, 4, 4)), jnp.ones((1, 4, 4)))
    np.testing.assert_allclose(same, 2 / 3, rtol=1e-5)


def test_places_compete_for_the_mask_of_ris():
    """Where a map is even, the learnt number alone decides; raising one place lowers the others."""
    model, variables = system("ris")
    frame = np.random.default_rng(2).integers(0, 256, (1, 64, 96, 3)).astype(np.float32)

    @jax.jit
    def segmented(variables, frame):
        features = model.apply(variables, frame, method=model.encode)
        memory = model.apply(variables, features, None, jnp.ones((1, 2), bool), method=model.start)
        return model.apply(variables, memory, features, method=model.segment)

    prediction = segmented(variables, frame)
    assert prediction.logits.shape == (1, 2, 8, 12)
    bias = variables["params"]["decoder"]["bias"]
    total = np.exp(np.asarray(prediction.logits) - bias).sum(axis=(2, 3))
    np.testing.assert_allclose(total, 8 * 12, rtol=1e-4)


@pytest.mark.parametrize(
    ("cls", "fields", "message"),
    [
        (RSIS, {"backbone": "vgg16"}, "config.model.backbone: expected one of .*found 'vgg16'"),
        (RSIS, {"features": 24}, "config.model.features: expected a multiple of 16, found 24"),
        (RSIS, {"classes": 1}, "config.model.classes: expected 2 or more"),
        (RIS, {"backbone": "vgg16"}, "config.model.backbone: expected one of .*found 'vgg16'"),
    ],
)
def test_fields_that_make_no_model_are_named(cls, fields, message):
    with pytest.raises(ValueError, match=message):
        variable_shapes(cls(**fields))
