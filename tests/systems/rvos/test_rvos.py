"""What RVOS alone promises, on a small network; the released numbers are in test_release.py."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from tests.systems.promises import CLOSE, assert_same, only, roll, stream, three_objects
from tests.tiny import quick_compilation, tiny_system
from vos_jax.inference.rollout import rollout
from vos_jax.inference.streaming import VideoSegmenter
from vos_jax.nn import object_decoder
from vos_jax.systems.base import one_hot
from vos_jax.systems.rvos.model import RVOS

PROPOSALS = 4


@pytest.fixture(scope="module", autouse=True)
def quickly():
    with quick_compilation():
        yield


@pytest.fixture(scope="module")
def one_shot():
    return tiny_system("rvos")


@pytest.fixture(scope="module")
def zero_shot():
    return tiny_system("rvos", one_shot=False, proposals=PROPOSALS)


def run(model, variables, frames, masks, **options):
    """Predictions of a clip, of labels [T, H, W] or None."""
    inputs = np.stack([model.preprocess(frame) for frame in frames])[None]
    objects = PROPOSALS if masks is None else int(masks.max())
    shown = None if masks is None else one_hot(jnp.asarray(masks), objects)[None]
    valid = jnp.ones((1, objects), bool)
    size = frames.shape[1:3]
    found, _ = jax.jit(
        lambda variables: rollout(model, variables, inputs, shown, valid, size=size, **options)
    )(variables)
    return found


def test_only_slots_with_an_object_are_decoded(one_shot, clip, monkeypatch):
    """The number of ConvLSTM steps follows the objects, not the slots."""
    model, variables = one_shot
    update, steps = object_decoder.lstm_update, []

    def counted(gates, cell):
        jax.debug.callback(lambda: steps.append(1))
        return update(gates, cell)

    monkeypatch.setattr(object_decoder, "lstm_update", counted)
    frames, masks = clip
    inputs = frames[None, :2]
    for objects in (1, 2):
        valid = jnp.arange(4)[None] < objects
        steps.clear()
        shown = one_hot(jnp.asarray(masks[:2]), 4)[None]
        found, _ = jax.jit(functools.partial(rollout, model))(variables, inputs, shown, valid)
        jax.block_until_ready(found)
        jax.effects_barrier()
        assert len(steps) == 2 * 4 * objects  # frames, levels


def test_a_given_mask_is_shown_to_the_network_for_two_frames(one_shot, clip):
    """In the first frame and in the next one; then it sees what it segmented itself."""
    model, variables = one_shot
    frames, masks = clip
    other = masks.copy()
    other[1:] = masks[0]  # later masks are not looked at
    same = [roll(model, variables, frames[:3], x[:3]) for x in (masks, other)]
    np.testing.assert_array_equal(*same)
    segmenter = VideoSegmenter(model, variables)
    segmenter.step(frames[0], masks[0])
    shown = np.asarray(segmenter._memory.previous[0] > 0.5)
    np.testing.assert_array_equal(shown[0], masks[0] == 1)
    segmenter.step(frames[1])
    fed = np.asarray(segmenter._memory.previous[0])
    assert 0.01 < fed.std() and np.abs(fed - shown).max() > 0.1


def test_a_mask_given_later_goes_into_the_result_and_not_into_the_network(one_shot, clip):
    model, variables = one_shot
    frames, masks = three_objects(clip)
    segmenter = VideoSegmenter(model, variables, slots=4)
    segmenter.step(frames[0], only(masks[0], 1, 2))
    labels = segmenter.step(frames[1], only(masks[1], 3))
    np.testing.assert_array_equal(labels[masks[1] == 3], 3)
    previous = np.asarray(segmenter._memory.previous[0, 2])
    assert np.abs(previous - (masks[1] == 3)).max() > 0.1
    assert segmenter._memory.cost[0, 2] > 0


def test_slots_known_to_come_may_be_decoded_from_the_beginning(one_shot, clip):
    """As in the release: then an object that comes later has a past."""
    frames, masks = three_objects(clip)
    given = {0: only(masks[0], 1, 3), 2: only(masks[2], 2)}
    model, variables = one_shot
    past = model.clone(decode_absent=True)
    without = stream(model, variables, frames[:3], given, ids=[1, 2, 3])
    found = stream(past, variables, frames[:3], given, ids=[1, 2, 3])
    assert np.abs(found[1] - without[1])[2, 2].max() > CLOSE
    assert found[1][:2, 2].max() == 0  # it is not in the result before it is given
    all_known = {0: masks[0]}
    same = [stream(m, variables, frames[:2], all_known) for m in (model, past)]
    assert_same(*same)


def maps_of_two_frames(model, variables, frame, labels):
    """Maps [N, h, w] in the first and second of two equal frames with equal previous masks."""
    frames, masks = np.stack([frame, frame]), np.stack([labels, labels])
    forced = dict(num_given=0, teacher_forcing=jnp.bool_(True))
    found = run(model, variables, frames, masks, **forced)
    return list(np.asarray(jax.vmap(model.maps)(found))[:, 0])


def test_without_temporal_recurrence_frames_are_told_apart_by_nothing_else(one_shot, clip):
    (model, variables), frame, labels = one_shot, clip[0][0], clip[1][0]
    first, second = maps_of_two_frames(model.clone(mode="s"), variables, frame, labels)
    np.testing.assert_allclose(second, first, atol=1e-6)
    first, second = maps_of_two_frames(model, variables, frame, labels)
    assert np.abs(second - first).max() > 1e-3


def test_without_spatial_recurrence_objects_meet_in_the_first_frame_alone(one_shot, clip):
    """Another mask of the first object changes the second one there, and its state from there."""
    (model, variables), frame, labels = one_shot, clip[0][0], clip[1][0]
    moved = np.where(labels == 1, 0, labels)
    moved[-8:, :8] = 1
    model = model.clone(mode="t")
    one, other = (maps_of_two_frames(model, variables, frame, x) for x in (labels, moved))
    assert np.abs(one[0] - other[0])[1].max() > 1e-3
    # in the second frame what is left of it is the temporal state of the second object itself
    segmenter = VideoSegmenter(model, variables)
    segmenter.step(frame, labels)
    kept = segmenter._memory
    swapped = kept.replace(previous=kept.previous.at[:, 0].set(0.0))

    @jax.jit
    def second_frame(variables, memory):
        features = model.apply(variables, frame[None], method=model.encode)
        return model.maps(model.apply(variables, memory, features, method=model.segment))[0]

    found = [second_frame(variables, memory) for memory in (kept, swapped)]
    assert np.abs(found[0] - found[1])[0].max() > 1e-3
    np.testing.assert_allclose(found[0][1], found[1][1], atol=1e-6)


def test_zero_shot_proposals_are_the_same_whether_masks_name_them_or_not(zero_shot, clip):
    model, variables = zero_shot
    frames, masks = clip
    alone = VideoSegmenter(model, variables)
    named = VideoSegmenter(model, variables)
    for t in range(3):
        labels = alone.step(frames[t])
        named.step(frames[t], masks[0] if t == 0 else None)
    assert alone.ids == [1, 2, 3, 4] and labels.max() <= PROPOSALS
    assert named.ids == [1, 2]
    for ours, theirs in zip(alone._memory.hidden, named._memory.hidden, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    slots = np.asarray(named._memory.slot[0, :2])
    assert len(set(slots.tolist())) == 2 and slots.max() < PROPOSALS


def test_zero_shot_streaming_equals_the_rollout_with_masks_and_without(zero_shot, clip):
    model, variables = zero_shot
    frames, masks = clip
    expected = roll(model, variables, frames[:4], masks[:4])
    found = stream(model, variables, frames[:4], {0: masks[0]})
    np.testing.assert_allclose(found[1][1:], expected, atol=CLOSE)
    found = stream(model, variables, frames[:4], {})
    predictions = run(model, variables, frames[:4], None)
    size = frames.shape[1:3]
    expected = jax.vmap(lambda prediction: model.probabilities(prediction, size))(predictions)
    np.testing.assert_allclose(found[1], expected[:, 0], atol=CLOSE)


def test_a_later_object_takes_a_free_proposal_and_the_others_keep_theirs(zero_shot, clip):
    model, variables = zero_shot
    frames, masks = three_objects(clip)
    segmenter = VideoSegmenter(model, variables)
    segmenter.step(frames[0], only(masks[0], 1, 2))
    before = np.asarray(segmenter._memory.slot[0, :2])
    segmenter.step(frames[1], only(masks[1], 3))
    after = np.asarray(segmenter._memory.slot[0, :3])
    np.testing.assert_array_equal(after[:2], before)
    assert len(set(after.tolist())) == 3


def test_more_objects_than_proposals_leave_some_without_a_map(clip):
    model, variables = tiny_system("rvos", one_shot=False, proposals=2)
    frames, masks = three_objects(clip)
    segmenter = VideoSegmenter(model, variables)
    segmenter.step(frames[0], masks[0])
    labels = segmenter.step(frames[1])
    slots = sorted(np.asarray(segmenter._memory.slot[0, :3]).tolist())
    assert slots[:2] == [0, 1] and slots[2] >= 2
    lost = int(np.argmax(np.asarray(segmenter._memory.slot[0, :3]))) + 1
    assert lost not in labels and segmenter.probabilities()[lost].max() == 0


def losses(model, maps, labels, valid, **settings):
    """Of predictions whose maps are these, [T, B, N, h, w]."""
    maps = jnp.asarray(maps, jnp.float32)
    model = type("Given", (RVOS,), {"maps": lambda self, p, size=None: p})(
        **{f: getattr(model, f) for f in ("one_shot",)}
    )
    batch = {"labels": jnp.asarray(labels), "valid": jnp.asarray(valid)}
    return model.losses(maps, batch, jnp.int32(0), **settings)


def test_losses_are_means_over_all_objects_of_the_batch():
    labels = np.zeros((2, 1, 4, 6), np.uint8)
    labels[0, 0, :2], labels[1, 0, 2:], labels[1, 0, 0] = 1, 1, 2
    valid = [[True, False], [True, True]]
    maps = np.zeros((1, 2, 2, 4, 6))
    maps[0, 0, 0] = labels[0, 0] == 1  # found; the others cost 1
    found = losses(RVOS(), maps, labels, valid)
    np.testing.assert_allclose(found, [0, 2 * 2 / 3], atol=1e-6)
    assert np.mean(found) == pytest.approx(2 / 3)


def test_an_object_that_is_not_seen_costs_1_or_does_not_count():
    labels = np.zeros((1, 2, 4, 6), np.uint8)
    labels[0, :, :2], labels[0, 0, 3] = 1, 2  # the second object leaves
    maps = np.stack([[[labels[0, t] == k for k in (1, 2)]] for t in range(2)])
    valid = [[True, True]]
    np.testing.assert_allclose(losses(RVOS(), maps, labels, valid), [0.5], atol=1e-6)
    only_seen = losses(RVOS(), maps, labels, valid, visible_only=True)
    np.testing.assert_allclose(only_seen, [0], atol=1e-6)


def test_zero_shot_pairs_once_and_takes_no_slot_beyond_the_objects():
    model = RVOS(one_shot=False)
    labels = np.zeros((1, 2, 4, 6), np.uint8)
    labels[0, :, :2], labels[0, :, 3] = 1, 2
    valid = [[True, True, False]]
    swapped = np.stack([[[labels[0, t] == k for k in (2, 1, 0)]] for t in range(2)])
    np.testing.assert_allclose(losses(model, swapped, labels, valid), [0], atol=1e-6)
    changing = swapped.copy()
    changing[1] = changing[1][:, [1, 0, 2]]  # paired as in the first frame
    np.testing.assert_allclose(losses(model, changing, labels, valid), [1], atol=1e-6)
    outside = swapped[:, :, [2, 1, 0]]  # the third slot may not be paired
    assert losses(model, outside, labels, valid)[0] > 0.9


def test_no_gradient_goes_through_the_masks_that_are_fed_back(one_shot, clip):
    """The hidden states alone carry it, as in the release; detach=False lets it through."""
    model, variables = one_shot
    frames, masks = clip
    run_model = model.clone(mode="s")  # no hidden state goes from frame to frame
    inputs = frames[None, :2]
    shown, valid = one_hot(jnp.asarray(masks[:2]), 2)[None], jnp.ones((1, 2), bool)

    def first_frame_gradient(detach):
        used = run_model.clone(detach=detach)

        def total(kernel):
            params = variables["params"]
            changed = {**params, "decoder": {**params["decoder"], "kernel": kernel}}
            changed = {**variables, "params": changed}
            found, _ = rollout(used, changed, inputs, shown, valid, num_given=0)
            return found.hidden[-1][1].sum()  # of the second frame, before the last convolution

        return jax.jit(jax.grad(total))(variables["params"]["decoder"]["kernel"])

    assert np.all(first_frame_gradient(True) == 0)
    assert np.abs(first_frame_gradient(False)).max() > 1e-6


def test_frames_are_resized_as_pillow_does_and_left_as_they_are_for_size_0(clip):
    frame = clip[0][0]
    expected = np.asarray(Image.fromarray(frame).resize((30, 20), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(RVOS(size=(20, 30)).preprocess(frame), expected)
    assert RVOS(size=(20, 30), scale=1.5).preprocess(frame).shape == (30, 45, 3)
    np.testing.assert_array_equal(RVOS(size=(0, 0)).preprocess(frame), frame)


def test_wrong_fields_are_named():
    for field, value in {"mode": "ts", "backbone": "vgg", "features": 20}.items():
        with pytest.raises(ValueError, match=f"config.model.{field}: expected "):
            tiny_system("rvos", **{field: value})
