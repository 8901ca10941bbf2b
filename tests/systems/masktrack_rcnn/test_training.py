"""A training step of the released code from its own samples: losses and all gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from tests.fixtures import golden_parameters, load_npz, load_spec
from tests.systems.masktrack_rcnn.cases import CLOSE, released_model, released_variables
from tests.tiny import quick_compilation
from vos_jax.nn.detection_heads import TrackHead
from vos_jax.ops.boxes import LEGACY, encode, iou
from vos_jax.ops.detection_targets import IGNORED, NEGATIVE, match
from vos_jax.ops.mask_targets import mask_targets
from vos_jax.systems.mask_rcnn.detection import BOX_WEIGHTS, PROPOSAL_WEIGHTS, pyramid_anchors
from vos_jax.systems.mask_rcnn.frames import batch_inputs
from vos_jax.systems.mask_rcnn.official import import_detector
from vos_jax.systems.mask_rcnn.training import Sampled, proposal_losses
from vos_jax.systems.masktrack_rcnn.association import match_scores
from vos_jax.systems.masktrack_rcnn.official import LAYERS
from vos_jax.systems.masktrack_rcnn.training import track_losses

SLOTS, SIZE, SAMPLES = 4, (96, 160), 128
LOSSES = {
    "objectness": "loss_rpn_cls",
    "proposal": "loss_rpn_reg",
    "class": "loss_cls",
    "box": "loss_reg",
    "mask": "loss_mask",
    "track": "loss_match",
}


@functools.cache
def case():
    return load_npz("masktrack", "train_a")


@functools.cache
def batch():
    """The fixture's objects in slots that both frames share: those of the reference frame first.

    Also gives the slot of each object of the key frame.
    """
    frames = np.stack([case()["frames_key"], case()["frames_ref"]], axis=1).astype(np.float32)
    arrays = dict(
        frames=frames,
        size=np.tile(np.int32(SIZE), (2, 1)),
        boxes=np.zeros((2, 2, SLOTS, 4), np.float32),
        masks=np.zeros((2, 2, SLOTS, *SIZE), bool),
        classes=np.zeros((2, SLOTS), np.int32),
        valid=np.zeros((2, 2, SLOTS), bool),
    )
    slots = []
    for i in range(2):
        reference, places = case()[f"ref_bboxes{i}"], case()[f"gt_pids{i}"]
        free = len(reference) + np.cumsum(places == 0) - 1
        slots.append(np.where(places > 0, places - 1, free))
        arrays["boxes"][i, 1, : len(reference)] = reference
        arrays["valid"][i, 1, : len(reference)] = True
        arrays["boxes"][i, 0, slots[i]] = case()[f"gt_bboxes{i}"]
        arrays["valid"][i, 0, slots[i]] = True
        arrays["classes"][i, slots[i]] = case()[f"gt_labels{i}"]
        packed = np.unpackbits(case()[f"gt_masks_packed{i}"], axis=1)[:, : np.prod(SIZE)]
        arrays["masks"][i, 0, slots[i]] = packed.reshape(-1, *SIZE)
    return arrays, slots


@functools.cache
def anchors():
    grids = [(24, 40), (12, 20), (6, 10), (3, 5), (2, 3)]
    return np.concatenate(pyramid_anchors(grids, 8.0, LEGACY))


@functools.cache
def matched_anchors():
    """The slot of each anchor, [2, A]."""
    data, found = batch()[0], []
    inside = (anchors()[:, :2] >= 0).all(axis=1) & (anchors()[:, 2:] < SIZE[::-1]).all(axis=1)
    for boxes, valid in zip(data["boxes"][:, 0], data["valid"][:, 0], strict=True):
        overlaps = iou(anchors(), boxes, LEGACY)
        found.append(match(overlaps, inside, valid, 0.7, 0.3, 0.3, takes_over=True))
    return np.stack(found)


@functools.cache
def drawn_anchors():
    """What the released sampler drew."""
    labels = np.concatenate([case()[f"rpn_sampled_l{level}"] for level in range(5)], axis=1)
    index, drawn = np.zeros((2, 64), np.int32), np.zeros((2, 64), bool)
    slot = np.full((2, 64), -1, np.int32)
    for i in range(2):
        positive, negative = (np.flatnonzero(labels[i] == kind) for kind in (1, 0))
        count = len(positive) + len(negative)
        index[i, :count] = np.concatenate([positive, negative])
        drawn[i, :count] = True
        slot[i, : len(positive)] = matched_anchors()[i, positive]
    return Sampled(*map(jnp.asarray, (index, drawn, slot)))


@functools.cache
def drawn_boxes():
    """What the released sampler drew, and where: the positive ones first."""
    slot, own = np.full((2, SAMPLES), -1, np.int32), batch()[1]
    for i in range(2):
        slot[i, : case()[f"roi_num_pos{i}"]] = own[i][case()[f"roi_pos_gt_inds{i}"]]
    rois = np.stack([case()["roi_bboxes0"], case()["roi_bboxes1"]])
    index = jnp.tile(jnp.arange(SAMPLES), (2, 1))
    return Sampled(index, jnp.ones((2, SAMPLES), bool), jnp.asarray(slot)), rois


def parts_from_samples(model):
    """As `losses`, but for the draws."""
    data, (sampled, rois) = batch()[0], drawn_boxes()
    both = [batch_inputs(data, frame) for frame in (0, 1)]
    features = model.encode(jax.tree.map(lambda *x: jnp.concatenate(x), *both), train=True)
    key, reference = (
        jax.tree.map(lambda x: x[:2], features),
        jax.tree.map(lambda x: x[2:], features),
    )
    said = (key.logits, key.deltas, anchors())
    parts = proposal_losses(*said, data["boxes"][:, 0], drawn_anchors(), LEGACY)
    parts |= model.roi_losses(key, data, sampled, rois)
    parts["track"] = model.track_losses(key, reference, data, sampled, rois)
    return parts


@functools.cache
def step():
    """The losses, means over the batch, and the gradient of their sum."""
    drawn_anchors(), drawn_boxes()  # computed, and kept, before anything is traced
    model, variables = (
        released_model(),
        released_variables(load_spec("masktrack")["train"]["seeds"]["a"]),
    )

    @jax.jit
    def run(params, statistics):
        def total(params):
            used = {"params": params, "batch_stats": statistics}
            parts = model.apply(used, method=parts_from_samples)
            parts = {name: loss.mean() for name, loss in parts.items()}
            return sum(parts.values()), parts

        return jax.grad(total, has_aux=True)(params)

    with quick_compilation():
        return run(variables["params"], variables["batch_stats"])


def test_anchors_are_matched_as_in_the_release():
    labels = np.concatenate([case()[f"rpn_sampled_l{level}"] for level in range(5)], axis=1)
    kinds = np.where(matched_anchors() >= 0, 1, np.where(matched_anchors() == NEGATIVE, 0, -1))
    np.testing.assert_array_equal(kinds[labels >= 0], labels[labels >= 0])
    assert (matched_anchors() == IGNORED).any()


def test_targets_match_the_release():
    data, (sampled, rois) = batch()[0], drawn_boxes()
    boxes, positive = data["boxes"][:, 0], np.asarray(sampled.positive)
    found = encode(rois, sampled.objects(boxes), BOX_WEIGHTS, LEGACY)
    expected = case()["roi_bbox_targets"].reshape(2, SAMPLES, 4)
    np.testing.assert_allclose(found[positive], expected[positive], atol=1e-4)
    labels = np.where(positive, sampled.objects(data["classes"]), 0)
    np.testing.assert_array_equal(labels.ravel(), case()["roi_labels"])
    crops = [
        mask_targets(data["masks"][i, 0], sampled.slot[i], rois[i], 28, LEGACY) for i in (0, 1)
    ]
    np.testing.assert_array_equal(np.stack(crops)[positive], case()["mask_targets"])
    chosen = drawn_anchors()
    deltas = encode(anchors()[chosen.index], chosen.objects(boxes), PROPOSAL_WEIGHTS, LEGACY)[
        chosen.positive
    ]
    expected = np.concatenate([case()[f"rpn_bbox_targets_pos_l{level}"] for level in range(5)])
    np.testing.assert_allclose(  # there level by level, here image by image
        np.sort(np.asarray(deltas), axis=0), np.sort(expected, axis=0), atol=1e-5
    )


@pytest.mark.parametrize("name", LOSSES)
def test_losses_match_the_release(name):
    np.testing.assert_allclose(step()[1][name], case()[LOSSES[name]], rtol=1e-5)


def test_the_gradient_of_every_trained_parameter_matches_the_release():
    gradient = step()[0]
    names = load_spec("masktrack")
    arrays = golden_parameters(names, names["train"]["seeds"]["a"])
    numbers = {
        name: np.full(array.shape, i, np.float32) for i, (name, array) in enumerate(arrays.items())
    }
    target = {"params": gradient}
    trained = {k: v for k, v in numbers.items() if "running" not in k}
    of = import_detector(trained, target, LAYERS, "").variables["params"]
    flat, order = (traverse_util.flatten_dict(x, sep="/") for x in (gradient, of))
    by_name = {list(arrays)[int(order[path].flat[0])]: np.asarray(flat[path]) for path in flat}
    for name, norm in zip(case()["grad_names"].tolist(), case()["grad_norms"], strict=True):
        found = np.linalg.norm(by_name[name].astype(np.float64))
        np.testing.assert_allclose(found, norm, rtol=CLOSE, atol=1e-6, err_msg=name)
    for name, ours in (
        ("rpn_head.rpn_conv", gradient["rpn"]["conv"]),
        ("mask_head.convs.0.conv", gradient["mask_head"]["conv0"]),
    ):
        expected = case()[f"grad/{name}.weight"]
        found = ours["kernel"].transpose(3, 2, 0, 1)[::16, ::16]
        np.testing.assert_allclose(found, expected, atol=CLOSE * np.abs(expected).max())


def test_the_track_head_matches_the_release_and_skips_an_image_with_one_positive():
    golden, spec = load_npz("masktrack", "head_case_a"), load_spec("masktrack")["head"]
    arrays, seed = golden_parameters(spec, spec["seeds"]["a"]), spec["seeds"]["a"]

    def drawn(key, count):
        rng = np.random.default_rng(key)
        x = rng.normal(size=(count, 256, 1)) * rng.uniform(0, 1, (count, 1, 49))
        return np.float32(x.reshape(count, 256, 7, 7).transpose(0, 2, 3, 1))

    first = arrays["track_head.fcs.0.weight"].reshape(1024, 256, 7, 7).transpose(2, 3, 1, 0)
    kernels = (first.reshape(-1, 1024), arrays["track_head.fcs.1.weight"].T)
    params = {
        f"fc{i + 1}": {"kernel": kernel, "bias": arrays[f"track_head.fcs.{i}.bias"]}
        for i, kernel in enumerate(kernels)
    }
    counts, known = golden["x_n"], golden["ref_n"]
    head = TrackHead(1024)
    boxes = head.apply({"params": params}, drawn(seed, counts.sum()))
    references = head.apply({"params": params}, drawn([seed, 1], known.sum()))
    losses, (begin, at) = [], (0, 0)
    for i, (count, objects) in enumerate(zip(counts, known, strict=True)):
        seen = np.ones(objects, bool)
        scores = match_scores(boxes[begin : begin + count], references[at : at + objects], seen)
        expected = golden[f"score{i}"]
        np.testing.assert_allclose(scores, expected, atol=CLOSE * np.abs(expected).max())
        ids, counted = (golden[k][begin : begin + count] for k in ("ids", "id_weights"))
        # an object that is not in the reference frame has a slot of its own
        slot = np.where(counted > 0, np.where(ids > 0, ids - 1, objects), -1).astype(np.int32)
        scores = jnp.pad(scores, ((0, 0), (0, 1)), constant_values=-jnp.inf)
        sampled = Sampled(
            jnp.arange(count)[None], jnp.ones((1, count), bool), jnp.asarray(slot)[None]
        )
        losses.append(track_losses(scores[None], sampled, np.append(seen, False)[None])[0])
        if counted.sum() > 1:
            np.testing.assert_allclose(losses[i], golden["per_image_loss"][i], rtol=1e-5)
        begin, at = begin + count, at + objects
    assert losses[2] == 0
    np.testing.assert_allclose(np.mean(losses), golden["loss_match"][0], rtol=1e-5)
