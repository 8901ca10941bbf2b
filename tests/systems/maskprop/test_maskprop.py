"""MaskProp on its detector: streaming, what it trains towards, and one loss on any number of
devices."""

import functools
import json

import jax
import numpy as np
import pytest

from tests.eight_devices import run_on_eight_devices
from tests.systems.maskprop import tiny_maskprop
from tests.systems.maskprop.tiny_maskprop import CANVAS, SLOTS, batch
from tests.tiny import quick_compilation
from vos_jax.ops.clip_linking import link_clips
from vos_jax.systems.maskprop.model import MaskProp, shares
from vos_jax.systems.vis_base import Detections, Inputs

REACH = 2


@pytest.fixture(scope="module", autouse=True)
def programs_of_moments():
    with quick_compilation():
        yield


@functools.cache
def system():
    return tiny_maskprop.tiny_maskprop(reach=REACH)


@functools.cache
def found_in(frames=5, seed=0):
    """Features and lively detections of a video: boxes of the size of objects, some not used."""
    model, variables = system()
    rng = np.random.default_rng(seed)
    images = rng.normal(size=(frames, *CANVAS, 3)).astype(np.float32)
    size = np.tile(np.int32(CANVAS), (frames, 1))
    inputs = Inputs(images, size, np.ones((frames, 2), np.float32))
    features = jax.jit(functools.partial(model.apply, method="encode"))(variables, inputs)
    corners = rng.uniform(0, 30, (frames, SLOTS, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(16, 32, (frames, SLOTS, 2))], axis=2)
    valid = np.arange(SLOTS) < rng.integers(1, SLOTS + 1, (frames, 1))
    detections = Detections(
        boxes=np.float32(boxes),
        scores=np.float32(valid * 0.9),
        classes=np.zeros((frames, SLOTS), np.int32),
        probabilities=np.zeros((frames, SLOTS, model.classes + 1), np.float32),
        masks=rng.normal(3, 1, (frames, SLOTS, 28, 28)).astype(np.float32),
        embeddings=np.zeros((frames, SLOTS, model.hidden), np.float32),
        valid=valid,
    )
    return features, detections


def at(tree, t):
    return jax.tree.map(lambda x: x[t : t + 1], tree)


def streamed(model, variables, features, detections):
    """What `link` gives, with a flush, and the memory after each frame."""
    link = jax.jit(functools.partial(model.apply, method="link"))
    memory = model.apply(variables, 1, method="start")
    count = len(detections.valid)
    given = [(at(features, t), at(detections, t), True) for t in range(count)]
    given += [(*given[-1][:2], False)] * model.delay
    results = []
    for *frame, real in given:
        memory, linked = link(variables, memory, *frame, np.array([real]))
        results.append((jax.device_get(linked), memory))
    assert link._cache_size() == 1
    return results[model.delay :]


def test_link_delays_by_the_reach_and_links_the_clips_of_every_frame():
    model, variables = system()
    features, detections = found_in()
    results = streamed(model, variables, features, detections)
    clips = []
    for t, (linked, _) in enumerate(results):
        jax.tree.map(np.testing.assert_array_equal, linked.detections, at(detections, t))
        clips.append(linked.masks[0][detections.valid[t]])
    for t, ids in enumerate(link_clips(clips, REACH, model.id_threshold, exclusive=True)):
        found = results[t][0].ids[0]
        assert found[: len(ids)].tolist() == ids.tolist() and (found[len(ids) :] == -1).all()
        assert len(set(ids.tolist())) == len(ids)


def test_the_centre_of_a_clip_has_the_shares_of_the_pasted_masks():
    model, variables = system()
    features, detections = found_in()
    linked, _ = streamed(model, variables, features, detections)[1]
    pasted = model.apply(variables, at(detections, 1), CANVAS, method="masks")
    expected = np.where(detections.valid[1][:, None, None], shares(pasted[0], model.stride), 0)
    centre = linked.masks[0, :, REACH]
    assert np.abs(centre - expected).max() < 0.35  # soft there, thresholded here
    assert np.abs(centre - expected).mean() < 0.05 < expected.mean()


def test_propagated_features_of_a_clip_are_those_that_its_masks_come_from():
    model, variables = system()
    features, detections = found_in()
    _, memory = streamed(model, variables, features, detections)[2]
    found = model.apply(variables, memory, method="clip_features")
    reduced = model.apply(variables, features, method="reduce")
    height, width = reduced.shape[1:3]
    assert found.shape == (1, 2, 2 * REACH + 1, height, width, model.branch_channels)
    own = np.asarray(memory.frames.masks)[0, REACH, :2, ..., None] * reduced[2]
    np.testing.assert_allclose(found[0, :, REACH], own, atol=1e-4)
    assert np.abs(found[0, :, 0]).max() > 0


def test_the_track_head_links_the_same_detections_without_delay():
    model, variables = system()
    model = model.clone(linker="track_head")
    assert model.delay == 0
    results = streamed(model, variables, *found_in())
    assert results[0][0].ids[0].max() == found_in()[1].valid[0].sum() - 1


def losses(model, variables, rows, key):
    return jax.jit(functools.partial(model.apply, method=tiny_maskprop.losses))(
        variables, rows, key
    )


def test_losses_do_not_depend_on_free_slots_or_on_masks_that_no_frame_shows():
    model, variables = system()
    model, rows, key = model.clone(predicted_masks=0.0), batch(2), jax.random.key(0)
    expected = losses(model, variables, rows, key)
    assert ((expected > 0) & (expected < 2)).all()
    masks = rows["masks"].copy()
    masks[~rows["valid"]] = True
    np.testing.assert_allclose(
        losses(model, variables, {**rows, "masks": masks}, key), expected, rtol=1e-5
    )
    absent = {**rows, "valid": rows["valid"] & np.array([False, True, False])[:, None]}
    assert not losses(model, variables, absent, key).any()


def test_half_of_the_masks_to_carry_are_the_mask_head_s_without_a_gradient():
    model, variables = system()
    rows, key = batch(2), jax.random.key(0)
    pair = [losses(model.clone(predicted_masks=p), variables, rows, key) for p in (0.0, 1.0)]
    drawn = losses(model, variables, rows, key)
    assert not np.allclose(*pair, rtol=1e-3)
    assert not any(np.allclose(drawn, x, rtol=1e-3) for x in pair)
    only = model.clone(predicted_masks=1.0)
    gradient = jax.grad(lambda v: losses(only, v, rows, key).mean())(variables)["params"]
    largest = {
        name: max(np.abs(x).max() for x in jax.tree.leaves(g)) for name, g in gradient.items()
    }
    assert largest["mask_head"] == 0 and largest["branch"] > 0 and largest["fpn"] > 0


def test_losses_on_eight_devices_are_those_on_one():
    found = json.loads(run_on_eight_devices("tests.systems.maskprop.tiny_maskprop"))
    np.testing.assert_allclose(found["8"]["losses"], found["1"]["losses"], rtol=1e-5)
    assert found["difference"] < 1e-5 * max(found["largest"], 1)


def test_a_memory_without_a_canvas_and_other_choices_are_refused_by_name():
    model, variables = system()
    with pytest.raises(ValueError, match=r"config.inference.canvas: expected the \(height, width"):
        model.clone(canvas=(0, 0)).apply(variables, 1, method="start")
    memory = model.clone(canvas=(0, 0)).apply(variables, 1, CANVAS, method="start")
    assert memory.frames.features.shape[2:4] == tuple(s // model.stride for s in CANVAS)
    for field, name in (("stride", "model.stride"), ("linker", "inference.linker")):
        with pytest.raises(ValueError, match=f"config.{name}: expected one of .*found 5"):
            MaskProp(**{field: 5}).init(jax.random.key(0), None)
