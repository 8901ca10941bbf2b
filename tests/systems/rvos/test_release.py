"""RVOS against the released code: every stored array of a clip, one-shot and zero-shot."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.fixtures import load_npz, skip_where_trimmed
from tests.systems.rvos.cases import TASKS, encoder, released_model, released_variables
from tests.tiny import quick_compilation
from vos_jax.inference.rollout import advance, begin
from vos_jax.nn.object_decoder import Decoder, mask_pyramid
from vos_jax.ops.resize import resize_bilinear
from vos_jax.systems.base import one_hot

CLOSE = 1e-4  # the fixture's own tolerance, absolute
MAPS = ("x1", "x2", "x3", "x4", "x5", "skip5", "skip4", "skip3", "skip2")
STATES = (
    *("t0/logits_low", "t1/logits_low", "probs"),
    *(f"t{t}/hidden{level}" for t in (0, 3) for level in range(4)),
    *(f"t0/cell{level}" for level in range(4)),
)
# of those, the ones that every fixture holds
KEPT = {
    *("enc/x5", "enc/skip5", "enc/skip4", "oneshot/t0/logits_low", "oneshot/t1/logits_low"),
    *("oneshot/t0/hidden0", "oneshot/t0/cell0", "oneshot/t0/cell1", "oneshot/t3/hidden0"),
    *("oneshot/t3/hidden2", "zeroshot/t0/logits_low", "zeroshot/t3/hidden0"),
    *("zeroshot/t3/hidden1", "zeroshot/t3/hidden2"),
}


@functools.cache
def case():
    return load_npz("rvos", "case_a")


def compare(name, found):
    """Channels last -> as stored, which may be every n-th channel."""
    skip_where_trimmed(name, case(), {name} - KEPT)
    expected = case()[name]
    if found.ndim == 4 and found.shape[1:] != expected.shape[1:]:
        found = np.moveaxis(np.asarray(found), -1, 1)
        found = found[:, :: found.shape[1] // expected.shape[1]]
    np.testing.assert_allclose(found, expected, rtol=0, atol=CLOSE)


@functools.cache
def encoded():
    """Features and backbone maps of each frame; both tasks have the same encoder."""
    return [encoder("oneshot")(frame[None]) for frame in case()["frames_rgb"]]


def captured(model, variables):
    """Function of a memory and features -> memory, prediction and the states of all slots."""
    size = case()["masks"].shape[1:]

    @jax.jit
    def step(memory, features, masks):
        if memory is None:
            first = (features, size, masks, jnp.ones((1, masks.shape[1] - 1), bool))
            arguments, method = first, begin
        else:
            arguments, method = (memory, features, size), advance
        (memory, prediction), inner = model.apply(
            variables,
            *arguments,
            method=method,
            capture_intermediates=lambda module, name: isinstance(module, Decoder),
            mutable=["intermediates"],
        )
        ((_, states),) = inner["intermediates"]["decoder"]["__call__"]
        outputs = (
            model.maps(prediction)[0],
            model.labels(prediction, size)[0],
            model.probabilities(prediction, size)[0],
        )
        return memory, prediction, states, outputs

    def run(*arguments):
        with quick_compilation():
            return step(*arguments)

    return run


@functools.cache
def walked(task):
    """All frames: (prediction, states, (maps, labels, probabilities)) of each."""
    slots = int(case()["masks"].max())
    model = released_model(task, slots)
    run = captured(model, {"params": {"decoder": released_variables(task)["params"]["decoder"]}})
    masks, memory, seen = one_hot(jnp.asarray(case()["masks"][:1]), slots), None, []
    for features, _ in encoded():
        memory, *found = run(memory, features, masks if memory is None else None)
        seen.append(found)
    return seen


@pytest.mark.parametrize("name", MAPS)
def test_the_encoder_matches_the_release(name):
    features, maps = encoded()[0]
    found = dict(zip(MAPS, (*maps, *features.skips), strict=True))
    compare(f"enc/{name}", found[name])


@pytest.mark.parametrize("name", STATES)
@pytest.mark.parametrize("task", TASKS)
def test_states_and_maps_match_the_release(task, name):
    seen = walked(task)
    if name == "probs":
        return compare(f"{task}/probs", np.stack([maps for _, _, (maps, *_) in seen]))
    frame, array = name.split("/")
    prediction, states, _ = seen[int(frame[1:])]
    if array == "logits_low":
        return compare(f"{task}/{name}", prediction.logits[0])
    kind, level = (states.hidden if "hidden" in array else states.cell), int(array[-1])
    return compare(f"{task}/{name}", kind[level][0])


@pytest.mark.parametrize("task", TASKS)
def test_objects_are_paired_and_painted_as_in_the_release(task):
    prediction, _, (maps, *_) = walked(task)[0]
    assert prediction.slot[0].tolist() == case()[f"{task}/assignment"].tolist()
    costs = case()[f"{task}/assign_cost"]
    expected = np.take_along_axis(costs, np.asarray(prediction.slot[0])[:, None], axis=1)[:, 0]
    np.testing.assert_allclose(prediction.cost[0], expected, atol=1e-6)
    order = np.argsort(-np.asarray(prediction.cost[0]), kind="stable")
    assert order.tolist() == case()[f"{task}/paint_order"].tolist()


@pytest.mark.parametrize("task", TASKS)
def test_labels_equal_the_release_and_are_the_most_probable_ones(task):
    for t, (_, _, (maps, labels, probabilities)) in enumerate(walked(task)):
        unclear = np.any(np.abs(np.asarray(maps) - 0.5) < 1e-5, axis=0)
        assert unclear.mean() < 0.01
        np.testing.assert_array_equal(probabilities.argmax(axis=0)[~unclear], labels[~unclear])
        if t > 0:  # of the first frame the release writes the annotation
            expected = case()[f"{task}/labels"][t]
            np.testing.assert_array_equal(labels[~unclear], expected[~unclear])


def test_mask_pyramid_matches_the_release():
    masks = one_hot(jnp.asarray(case()["masks"][:1]), 3)[:, 1:]
    for level, x in enumerate(mask_pyramid(masks, 4)):
        np.testing.assert_array_equal(x[0], case()[f"oneshot/t0/maskpool{level}"])
    golden = load_npz("rvos", "ops")
    for level, x in enumerate(mask_pyramid(jnp.asarray(golden["pool_in"]), 4)):
        np.testing.assert_array_equal(x, golden[f"pool_{3 - level}"])


def test_enlarging_matches_the_release():
    golden = load_npz("rvos", "ops")
    for size in ((9, 14), (10, 14)):
        found = resize_bilinear(jnp.asarray(golden["up_in"]), size, axes=(2, 3))
        expected = golden[f"up_out_{size[0]}x{size[1]}"]
        np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(("mode", "frames"), [("s", (1,)), ("t", (0, 1))])
def test_modes_with_one_recurrence_match_the_release(mode, frames):
    """Without spatial recurrence the first frame has it all the same."""
    model = released_model("oneshot", 3, mode)
    decoder = {"params": {"decoder": released_variables("oneshot")["params"]["decoder"]}}
    run = captured(model, decoder)
    masks, memory = one_hot(jnp.asarray(case()["masks"][:1]), 3), None
    for t, (features, _) in enumerate(encoded()[:2]):
        memory, _, _, (maps, *_) = run(memory, features, masks if memory is None else None)
        if t in frames:
            expected = case()[f"oneshot_{mode.upper()}/t{t}/probs"]
            np.testing.assert_allclose(maps[:, ::2, ::2], expected, rtol=0, atol=CLOSE)
