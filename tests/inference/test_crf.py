"""The dense CRF: lattice = all pairs of pixels, edges of the picture, what the config turns on."""

import time

import cv2
import numpy as np
import pytest

from vos_jax.data.synthetic import render
from vos_jax.inference import crf as field
from vos_jax.inference.crf import CRF, Lattice, normalised, place_kernel
from vos_jax.inference.setup import build_inference
from vos_jax.systems.table import SYSTEMS

SIZE = (54, 96)
# of the release: its places, and the weights that it writes results for
SETTINGS = [
    dict(alike_pixels=s, alike_weight=w) for s, w in ((10.0, 8.0), (15.0, 9.0), (20.0, 10.0))
]


@pytest.fixture(scope="module")
def picture():
    """A frame 54x96, and a soft map of its objects that is off by some pixels, [2, 54, 96]."""
    frame, labels = render("test", 0, 3)
    frame = cv2.resize(frame, SIZE[::-1], interpolation=cv2.INTER_AREA)
    inside = cv2.resize((labels > 0).astype(np.float32), SIZE[::-1], interpolation=cv2.INTER_AREA)
    inside = np.roll(cv2.GaussianBlur(inside, (0, 0), 2.5), 2, axis=1) * 0.96 + 0.02
    return frame, np.stack([1 - inside, inside])


def all_pairs(features):
    """exp(-|f - g|^2 / 2) between all pixels."""
    squares = (features**2).sum(axis=1)
    distances = squares[:, None] + squares - 2 * features @ features.T
    kernel = np.exp(-distances / 2)
    return lambda x: kernel @ x


def exactly_refined(crf, frame, probabilities):
    """The definition: mean-field steps with sums over all pairs of pixels, [L, H, W]."""
    place = np.moveaxis(np.indices(frame.shape[:2]), 0, -1).reshape(-1, 2) / crf.near_pixels
    inside = probabilities[1]
    inside = (inside - inside.min()) / (inside.max() - inside.min())
    p = np.stack([1 - inside.ravel(), inside.ravel()], axis=1).astype(np.float64)
    kernels = [
        (crf.near_weight, normalised(all_pairs(place), len(p))),
        (crf.alike_weight, normalised(all_pairs(crf.features(frame)), len(p))),
    ]
    unary = np.log(np.clip(p, 1e-5, 1))
    found = np.exp(unary) / np.exp(unary).sum(axis=1, keepdims=True)
    for _ in range(crf.steps):
        logits = unary + sum(weight * kernel(found) for weight, kernel in kernels)
        found = 1 / (1 + np.exp(logits[:, :1] - logits[:, 1:]))
        found = np.concatenate([1 - found, found], axis=1)
    return found.T.reshape(2, *frame.shape[:2])


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_labels_are_those_of_the_definition(settings, picture):
    frame, probabilities = picture
    crf = CRF(**settings)
    expected = exactly_refined(crf, frame, probabilities)
    found = crf.refine(frame, probabilities)
    labels = expected.argmax(axis=0)
    assert (labels != probabilities.argmax(axis=0)).mean() > 0.01  # it does something
    assert (found.argmax(axis=0) == labels).mean() >= 0.995
    assert np.abs(found - expected).mean() < 0.01


def test_the_kernel_of_place_is_that_of_all_pairs():
    place = np.moveaxis(np.indices((9, 12)), 0, -1).reshape(-1, 2)
    x = np.random.default_rng(0).normal(size=(108, 3))
    found = place_kernel((9, 12), 1.5)(x)
    np.testing.assert_allclose(found, all_pairs(place / 1.5)(x), atol=1e-4)


@pytest.mark.parametrize("dims", [1, 2, 3, 5])
def test_the_lattice_is_a_gaussian_of_any_dimensions(dims):
    """Of values that sum to something, not pixel by pixel: it blurs in steps."""
    rng = np.random.default_rng(dims)
    features = rng.uniform(0, 3, (800, dims))
    values = np.stack([np.ones(800), (features[:, 0] > 1.5) * 1.0], axis=1)
    found, expected = Lattice(features)(values), all_pairs(features)(values)
    ratios = (x[:, 1] / x[:, 0] for x in (found, expected))
    np.testing.assert_allclose(*ratios, atol=0.1)
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.98


def test_the_share_of_all_corners_is_one():
    x = field._elevated(np.random.default_rng(0).normal(size=(500, 5)) * 4)
    corners, shares = field._corners_and_shares(x)
    assert shares.min() > -1e-9
    np.testing.assert_allclose(shares.sum(axis=1), 1)
    assert not corners.sum(axis=2).any()
    np.testing.assert_allclose((corners * shares[..., None]).sum(axis=1), x, atol=1e-9)


def test_masks_go_to_the_edges_of_the_picture():
    frame = np.full((40, 60, 3), 60, np.uint8)
    frame[10:30, 20:45] = 190
    inside = np.full((40, 60), 0.4)
    inside[13:27, 23:50] = 0.6
    refined = CRF(stretched=False).refine(frame, np.stack([1 - inside, inside])).argmax(axis=0)
    np.testing.assert_array_equal(refined, frame[..., 0] > 100)


def test_several_objects_compete():
    frame = np.zeros((20, 30, 3), np.uint8)
    frame[:, :10], frame[:, 10:20], frame[:, 20:] = 20, 120, 220
    p = np.full((3, 20, 30), 0.3)
    for label in range(3):
        p[label, :, 10 * label + 2 : 10 * label + 12] += 0.4
    refined = CRF().refine(frame, p / p.sum(axis=0)).argmax(axis=0)
    np.testing.assert_array_equal(refined, np.repeat([[0, 1, 2]], 20, 0).repeat(10, 1))


def test_a_frame_of_480p_takes_less_than_ten_seconds(picture):
    frame, inside = picture[0], picture[1][1]
    frame = cv2.resize(frame, (854, 480), interpolation=cv2.INTER_CUBIC)
    inside = cv2.resize(inside, (854, 480))
    begun = time.process_time()
    CRF().refine(frame, np.stack([1 - inside, inside]))
    assert time.process_time() - begun < 10


def test_a_map_without_any_difference_stays_finite():
    found = CRF().refine(np.zeros((8, 8, 3), np.uint8), np.full((2, 8, 8), 0.5))
    np.testing.assert_allclose(found, 0.5)


def test_a_kernel_too_narrow_for_the_lattice_is_refused():
    frame = np.random.default_rng(0).integers(0, 255, (8, 8, 3)).astype(np.uint8)
    with pytest.raises(ValueError, match="too narrow.*alike_pixels or alike_colour"):
        CRF(alike_colour=0.01).refine(frame, np.full((2, 8, 8), 0.5))


def test_the_config_turns_it_on():
    section = {"name": "cosnet", **SYSTEMS["cosnet"].tiny}
    off = build_inference({"model": section, "inference": {"crf_settings": {"steps": 3}}})
    assert off.crf is None
    on = build_inference(
        {"model": section, "inference": {"crf": True, "crf_settings": {"steps": 3}}}
    )
    assert on.crf == CRF(steps=3)
    with pytest.raises(ValueError, match=r"crf_settings.sdims: there is no such field; .*steps"):
        build_inference(
            {"model": section, "inference": {"crf": True, "crf_settings": {"sdims": 3}}}
        )
