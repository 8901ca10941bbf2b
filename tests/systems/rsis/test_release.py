"""RSIS against the released code: every stored array of two images, and its losses."""

import numpy as np
import pytest
from scipy.special import softmax

from tests.fixtures import load_npz, skip_where_trimmed
from tests.systems.rsis.cases import case, found
from vos_jax.ops.losses import class_costs, stop_costs

CLOSE = 1e-4  # the fixture's own tolerance, absolute
STATES = [
    f"t{t}/{kind}{level}" for t in (0, 3) for kind in ("hidden", "cell") for level in range(5)
]
# of those, the ones that every fixture holds
KEPT = {"t0/hidden0", "t0/hidden1", "t0/cell4", "t3/hidden2", "t3/cell0", "t3/cell1", "t3/cell3"}


def compare(name, x):
    """Channels last -> as stored, every n-th channel."""
    expected = case()[name]
    x = np.moveaxis(np.asarray(x), -1, 1)
    step = x.shape[1] // expected.shape[1]
    np.testing.assert_allclose(x[:, ::step], expected, rtol=0, atol=CLOSE)


@pytest.mark.parametrize("number", [5, 4, 3, 2, 1])
def test_the_encoder_matches_the_release(number):
    skip_where_trimmed(f"enc/skip{number}", case(), {"enc/skip1", "enc/skip2"})
    features, *_ = found()
    compare(f"enc/skip{number}", features.skips[5 - number])


@pytest.mark.parametrize("name", STATES)
def test_states_of_objects_match_the_release(name):
    skip_where_trimmed(name, case(), {name} - KEPT)
    _, states, *_ = found()
    frame, array = name.split("/")
    kind = states.hidden if "hidden" in array else states.cell
    compare(name, kind[int(array[-1])][:, int(frame[1:])])


def test_masks_match_the_release():
    *_, prediction, answers = found()
    logits = case()["t0/logits_half_pre_upsample"][:, 0]
    np.testing.assert_allclose(prediction.logits[:, 0], logits, rtol=0, atol=CLOSE)
    expected = case()["mask_probs"]
    np.testing.assert_allclose(answers["maps"], expected, rtol=0, atol=CLOSE)
    instances = answers["instances"]  # of which the frames' size is that of the network
    clear = np.abs(expected - 0.5) > CLOSE
    assert clear.mean() > 0.99
    np.testing.assert_array_equal(instances.masks[clear], (expected > 0.5)[clear])


def test_classes_and_stops_match_the_release():
    *_, prediction, answers = found()
    classes = softmax(prediction.classes, axis=-1)
    np.testing.assert_allclose(classes, case()["class_probs"], rtol=0, atol=CLOSE)
    stops = case()["stop_logits"][..., 0]
    np.testing.assert_allclose(prediction.there, stops, rtol=0, atol=CLOSE)
    scores = case()["class_probs"][..., 1:] * case()["stop_probs"]  # as the release scores masks
    np.testing.assert_allclose(answers["instances"].scores, scores, rtol=0, atol=CLOSE)


def test_class_costs_equal_the_release():
    golden = load_npz("rsis", "ops")
    found = class_costs(np.log(golden["nll_probs"]), golden["nll_target"][:, 0])
    np.testing.assert_allclose(found, golden["nll_out"], rtol=1e-5)
    counted = golden["nll_sw"][:, 0]
    np.testing.assert_allclose(found[counted].mean(), golden["nll_mean"], rtol=1e-5)


def test_stop_costs_equal_the_release():
    golden = load_npz("rsis", "ops")
    found = stop_costs(golden["stop_logits"], golden["stop_target"] > 0)
    np.testing.assert_allclose(found, golden["stop_bce"], rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(found, golden["stop_bce_auto_balance"], rtol=1e-5, atol=1e-7)
    mean = found[golden["stop_sw"] > 0].mean()
    np.testing.assert_allclose(mean, golden["stop_mean"], rtol=1e-5)
