"""The switches of FEELVOS: the ablation's cues, the fed-back mask, nearest neighbours."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.systems.feelvos.encoded import Encoded
from tests.systems.promises import stream
from tests.tiny import lively, quick_compilation
from vos_jax.configs.feelvos import ABLATION, get_config
from vos_jax.inference.rollout import advance
from vos_jax.systems.base import one_hot
from vos_jax.systems.feelvos.model import FEELVOS

SIZE, GRID = (48, 64), (12, 16)
FEATURES, CHANNELS, WINDOW = 8, 6, 2
SMALL = {"features": FEATURES, "embedding_dim": CHANNELS, "window": WINDOW}


@pytest.fixture(scope="module", autouse=True)
def quickly():
    with quick_compilation():
        yield


@pytest.fixture(scope="module")
def frames():
    """Features and embeddings of three random frames, [3, 1, h, w, C]."""
    shape = (3, 1, *GRID, FEATURES + CHANNELS)
    return np.random.default_rng(0).uniform(0, 1, shape).astype(np.float32)


@pytest.fixture(scope="module")
def masks():
    """Background and two objects, float32 [1, 3, H, W]."""
    labels = np.zeros((1, *SIZE), np.uint8)
    labels[:, 8:30, 6:24], labels[:, 20:40, 36:60] = 1, 2
    return one_hot(jnp.asarray(labels), 2)


class Tracker:
    """A small FEELVOS at its second frame, and its jitted `advance`."""

    def __init__(self, frames, masks, **fields):
        self.model = Encoded(**{**fields, **SMALL})
        self.features = [self.model.encode(frame) for frame in frames]
        valid = jnp.ones((1, 2), bool)
        self.memory = self.model.apply({}, self.features[0], masks, valid, method=self.model.start)
        rng, segment = jax.random.key(0), self.model.segment
        init = jax.jit(functools.partial(self.model.init, method=segment))
        self.variables = lively(init(rng, self.memory, self.features[1]))
        self.advance = jax.jit(self._advance)

    def _advance(self, memory, features):
        model = self.model
        after, prediction = model.apply(self.variables, memory, features, SIZE, method=advance)
        believed = model.apply({}, prediction, SIZE, method=model.feedback)
        cues = model.apply({}, memory, features, method=model._cue_maps)
        return after, prediction.logits, believed, cues

    def second(self, **changed):
        """Logits [1, 3, h, w] and cues [1, 3, h, w, cues] of the second frame.

        changed: parts of the memory that are replaced before.
        """
        _, logits, _, cues = self.advance(self.memory.replace(**changed), self.features[1])
        return np.asarray(logits), np.asarray(cues)

    def looks_at(self, **changed) -> bool:
        return not np.allclose(self.second()[0], self.second(**changed)[0], atol=1e-4)


@pytest.mark.parametrize("preset", ABLATION)
def test_each_row_of_the_ablation_looks_at_its_cues_alone(preset, frames, masks):
    first, local, everywhere, prediction = ABLATION[preset]
    fields = {k: v for k, v in get_config(preset).model.items() if k != "name"}
    tracker = Tracker(frames, masks, **fields)
    cues = sum(ABLATION[preset])
    layer = tracker.variables["params"]["head"]["layer0"]
    assert layer["depthwise"]["kernel"].shape == (7, 7, 1, FEATURES + cues)
    assert layer["pointwise"]["kernel"].shape == (1, 1, FEATURES + cues, FEATURES)
    logits, maps = tracker.second()
    assert logits.shape == (1, 3, *GRID) and np.isfinite(logits).all()
    assert maps.shape == (*logits.shape, cues)

    memory, query = tracker.memory, tracker.features[1].embedding
    assert tracker.looks_at(reference=memory.reference[:, ::-1]) == first
    assert tracker.looks_at(previous=memory.previous[:, ::-1]) == (local or everywhere)
    masks_matter = local or everywhere or prediction
    assert tracker.looks_at(previous_masks=memory.previous_masks[:, :, ::-1]) == masks_matter
    # Below the window of the first row lies a perfect match for it, which a local search misses.
    beyond = memory.previous.copy()
    beyond[:, WINDOW + 1 :] = query[:, 0, 0]
    found = tracker.second(previous=beyond)[1]
    assert np.allclose(maps[:, :, 0], found[:, :, 0], atol=1e-5) == (not everywhere)


def feedback(frames, masks, kind):
    """Logits of the second and third frame."""
    tracker = Tracker(frames, masks, previous_mask=kind)
    memory, second, believed, _ = tracker.advance(tracker.memory, tracker.features[1])
    return second, tracker.advance(memory, tracker.features[2])[1], np.asarray(believed)


def test_soft_feedback_differs_from_hard_from_the_third_frame_on(frames, masks):
    hard, soft = (feedback(frames, masks, kind) for kind in ("hard", "soft"))
    np.testing.assert_allclose(hard[0], soft[0], atol=1e-5)
    assert not np.allclose(hard[1], soft[1], atol=1e-3) and np.isfinite(soft[1]).all()
    assert set(np.unique(hard[2])) == {0, 1}
    np.testing.assert_array_equal(np.argmax(soft[2], axis=1), np.argmax(hard[2], axis=1))
    np.testing.assert_allclose(soft[2].sum(axis=1), 1, atol=1e-5)
    assert 0 < soft[2].min() and soft[2].max() < 1


def test_masks_are_fed_back_hard_unless_told_otherwise():
    assert not FEELVOS().traits.soft_feedback
    assert FEELVOS(previous_mask="soft").traits.soft_feedback


def test_an_unknown_feedback_is_refused(frames, masks):
    with pytest.raises(ValueError, match=r"previous_mask: expected .*'hard', 'soft'.*found 'sof'"):
        Tracker(frames, masks, previous_mask="sof")


def test_three_nearest_neighbours_are_farther_than_one(frames, masks):
    one, three = (Tracker(frames, masks, k_nearest=k).second() for k in (1, 3))
    assert np.isfinite(three[0]).all() and not np.allclose(one[0], three[0], atol=1e-4)
    near, far = one[1][..., 0], three[1][..., 0]
    assert (near <= far + 1e-6).all() and (near < far).mean() > 0.9


def test_an_object_without_pixels_at_stride_4_is_never_predicted(tiny_feelvos, clip):
    frames, masks = clip
    first = masks[0].copy()
    first[1, 1] = 3  # one pixel between the stride-4 samples
    labels, _ = stream(*tiny_feelvos, frames, {0: first})
    assert not (labels[1:] == 3).any()
