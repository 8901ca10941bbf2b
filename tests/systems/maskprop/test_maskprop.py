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
from vos_jax.systems.maskprop.model import shares
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
        masks=rng.normal(3, 1, (frames, SLOTS, 16, 16)).astype(np.float32),
        embeddings=np.zeros((frames, SLOTS, model.hidden), np.float32),
        valid=valid,
    )
    return features, detections


def at(tree, t):
    return jax.tree.map(lambda x: x[t : t + 1], tree)


def streamed(model, variables, features, detections):
    """What `link` gives, with a flush, and the memory after each frame."""
    link = jax.jit(functools.partial(model.apply, method="link"))
    memory = model.apply(variables, at(features, 0), method="start")
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
    model = model.clone(linked_by="track_head")
    assert model.delay == 0
    results = streamed(model, variables, *found_in())
    assert results[0][0].ids[0].max() == found_in()[1].valid[0].sum() - 1


@functools.cache
def losses_of(**fields):
    """A compiled function (variables, batch, key) -> parts of the losses [B]."""
    model, _ = system()
    model = model.clone(**fields)

    def parts(variables, rows, key):
        return model.apply(variables, rows, key, method=tiny_maskprop.losses)[1]

    return jax.jit(parts)


def test_the_middle_frame_is_detected_in_and_carried_to_the_others():
    _, variables = system()
    rows, key, middle = batch(2), jax.random.key(0), np.array([False, True, False])[:, None]
    whole = losses_of(predicted_masks=0.0)(variables, rows, key)
    assert set(whole) == {"objectness", "proposal", "class", "box", "mask", "propagation"}
    assert all((part > 0).all() for part in whole.values())
    masks = rows["masks"].copy()
    masks[~rows["valid"]] = True  # no frame shows these
    found = losses_of(predicted_masks=0.0)(variables, {**rows, "masks": masks}, key)
    for name, part in whole.items():
        np.testing.assert_allclose(found[name], part, rtol=1e-4)
    alone = {**rows, "valid": rows["valid"] & middle}
    found = losses_of(predicted_masks=0.0)(variables, alone, key)
    assert not found["propagation"].any()
    np.testing.assert_allclose(found["class"], whole["class"], rtol=1e-4)
    others = {**rows, "valid": rows["valid"] & ~middle}
    found = losses_of(predicted_masks=0.0)(variables, others, key)
    assert not any(found[name].any() for name in ("propagation", "mask", "box", "proposal"))


def test_a_share_of_the_masks_to_carry_is_the_mask_head_s_without_a_gradient():
    model, variables = system()
    rows, key = batch(2), jax.random.key(0)
    half, none, all_ = (
        losses_of(predicted_masks=p)(variables, rows, key)["propagation"] for p in (0.5, 0.0, 1.0)
    )
    assert not any(
        np.allclose(*pair, rtol=1e-3) for pair in ((half, none), (half, all_), (none, all_))
    )

    def loss(variables):
        return losses_of(predicted_masks=1.0)(variables, rows, key)["propagation"].mean()

    gradient = jax.grad(loss)(variables)["params"]
    largest = {k: max(np.abs(x).max() for x in jax.tree.leaves(g)) for k, g in gradient.items()}
    assert all(np.isfinite(x) for x in largest.values())
    assert largest["mask_head"] == 0 and largest["branch"] > 0 and largest["fpn"] > 0


def test_losses_on_eight_devices_are_those_on_one():
    found = json.loads(run_on_eight_devices("tests.systems.maskprop.tiny_maskprop"))
    assert "track" in found["1"]
    for name, expected in found["1"].items():
        np.testing.assert_allclose(found["8"][name], expected, rtol=1e-4, atol=1e-6)
    assert found["difference"] < 1e-4 * max(found["largest"], 1)


@pytest.mark.parametrize("field", ["model.stride", "inference.linked_by"])
def test_another_choice_is_refused_by_name(field):
    with pytest.raises(ValueError, match=f"config.{field}: expected one of .*found 5"):
        tiny_maskprop.tiny_maskprop(**{field.split(".")[1]: 5})
