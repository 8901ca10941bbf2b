"""What the seam gives to systems that are recurrent, go without masks, or look at references."""

import functools
import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.eight_devices import run_on_eight_devices
from tests.systems.promises import only, stream, three_objects
from tests.systems.test_views import Leaning
from tests.systems.toys import PROPOSALS, Looking, Recurrent
from tests.tiny import lively, quick_compilation
from vos_jax.inference.rollout import rollout
from vos_jax.inference.streaming import VideoSegmenter, compiled
from vos_jax.nn.norm import BatchNorm
from vos_jax.systems.base import one_hot
from vos_jax.systems.build import variable_shapes
from vos_jax.systems.views import Views
from vos_jax.train.objective import make_objective

TRAIN = {"num_given": 0, "teacher_forcing_steps": 0, "frames_apart": False}
NEAR = dict(rtol=0, atol=1e-4)  # of answers that rounding alone tells apart
LATER = 3


@pytest.fixture(scope="module", autouse=True)
def quickly():
    with quick_compilation():
        yield


@pytest.fixture(scope="module")
def one_shot():
    model = Recurrent()
    return model, lively(variable_shapes(model), seed=3)


@pytest.fixture(scope="module")
def proposing(one_shot):
    return one_shot[0].clone(one_shot=False), one_shot[1]


@pytest.fixture(scope="module")
def looking():
    model = Looking()
    return model, lively(variable_shapes(model))


def prepared(model, frames):
    return np.stack([model.preprocess(frame) for frame in frames])[None]


def answers(model, predictions, size):
    """Labels [P, H, W] and probabilities [P, N+1, H, W] of the only video."""
    methods = model.labels, model.probabilities
    return [np.asarray(jax.vmap(lambda p, m=m: m(p, size))(predictions)[:, 0]) for m in methods]


def rolled(built, frames, labels, slots, **options):
    model, variables = built
    size, inputs = frames.shape[1:3], prepared(model, frames)
    masks = None if labels is None else one_hot(labels, slots)[None]

    @jax.jit
    def run(variables, inputs, masks):
        valid = jnp.ones((1, slots), bool)
        return rollout(model, variables, inputs, masks, valid, size=size, **options)[0]

    return answers(model, run(variables, inputs, masks), size)


# ---- streaming and the rollout ----


def test_one_shot_streaming_equals_the_rollout_and_labels_are_the_systems_own(one_shot, clip):
    frames, masks = clip
    found = stream(*one_shot, frames, {0: masks[0]})
    np.testing.assert_array_equal(found[0][0], masks[0])
    expected = rolled(one_shot, frames, masks, 2)
    np.testing.assert_allclose(found[1][1:], expected[1], **NEAR)
    assert (found[0][1:] == expected[0]).mean() > 0.99
    painted = expected[0] != expected[1].argmax(axis=1)
    assert 0.01 < painted.mean()  # so the largest channel would be another answer


@pytest.mark.parametrize("frames_seen", [1, 2, 6])
def test_without_masks_every_frame_is_segmented_also_the_first(proposing, clip, frames_seen):
    frames = clip[0][:frames_seen]
    found = stream(*proposing, frames, {})
    assert found[1].shape == (frames_seen, PROPOSALS + 1, *frames.shape[1:3])
    expected = rolled(proposing, frames, None, PROPOSALS)
    np.testing.assert_allclose(found[1], expected[1], **NEAR)
    assert (found[0] == expected[0]).mean() > 0.99
    assert found[0].max() <= PROPOSALS and np.ptp(found[0]) > 0


def test_proposals_have_ids_from_one_on_and_masks_cannot_join_later(proposing, clip):
    segmenter = VideoSegmenter(*proposing)
    segmenter.step(clip[0][0])
    assert segmenter.ids == [1, 2, 3] and segmenter.probabilities().shape[0] == 4
    with pytest.raises(ValueError, match="began without one: its ids are proposals"):
        segmenter.step(clip[0][1], clip[1][1])
    segmenter.reset()
    segmenter.step(clip[0][0], clip[1][0])  # masks name the proposals
    assert segmenter.ids == [1, 2]


def test_a_mask_given_later_goes_into_the_result_and_not_into_the_memory(one_shot, clip):
    frames, masks = three_objects(clip)
    given = {0: only(masks[0], 1, 2), LATER: only(masks[LATER], 3)}
    found = stream(*one_shot, frames, given, slots=4)
    np.testing.assert_array_equal(found[0][LATER][masks[LATER] == 3], 3)
    shown = np.stack([given.get(t, labels) for t, labels in enumerate(masks)])
    marks = np.zeros((1, len(frames), 3), bool)
    marks[0, 0, :2] = marks[0, LATER, 2] = True
    expected = rolled(one_shot, frames, shown, 3, given=marks)
    kept = [t for t in range(1, len(frames)) if t != LATER]
    np.testing.assert_allclose(found[1][kept], expected[1][[t - 1 for t in kept]], **NEAR)
    assert expected[1][LATER:, 3].max() > 0.1

    other = stream(Remembers(), one_shot[1], frames, given, slots=4)
    np.testing.assert_array_equal(other[0][LATER][masks[LATER] == 3], 3)
    assert np.abs(other[1][LATER + 1] - found[1][LATER + 1]).max() > 0.01


class Remembers(Recurrent):
    """The same with the usual form of feedback, so that given masks can be pasted into it."""

    @property
    def traits(self):
        return replace(super().traits, remembers_given=True)

    def feedback(self, prediction, size):
        return self.probabilities(prediction, size)

    def fit_masks(self, masks, features):
        return masks

    def start(self, features, masks, valid, num_references=1, train=False):
        shown = super().fit_masks(masks, features)
        memory = super().start(features, None, valid)
        return memory.replace(previous=shown * valid[..., None, None], new=valid)

    def introduce(self, memory, features, masks, new):
        shown = super().fit_masks(masks, features)
        previous = jnp.where(new[..., None, None], shown, memory.previous)
        return memory.replace(previous=previous, present=memory.present | new, new=new)

    def memorize(self, memory, features, prediction, masks):
        return super().memorize(memory, features, prediction, super().fit_masks(masks, features))


def test_padded_slots_change_nothing(one_shot, clip):
    frames, masks = clip
    found = stream(*one_shot, frames, {0: masks[0]}, slots=4)
    np.testing.assert_allclose(found[1], stream(*one_shot, frames, {0: masks[0]})[1], **NEAR)


def test_known_ids_take_the_slots_in_their_order_whenever_they_come(one_shot, clip):
    """A slot whose object has not come yet is gone through and is seen nowhere."""
    frames, masks = three_objects(clip)
    given = {0: only(masks[0], 2, 3), LATER: only(masks[LATER], 1)}
    in_order = stream(*one_shot, frames, given, ids=[1, 2, 3])
    assert np.all(in_order[1][1:LATER, 1] == 0) and in_order[1][LATER:, 1].max() > 0.1
    assert not np.any(in_order[0][:LATER] == 1)
    as_they_came = stream(*one_shot, frames, given)  # slots of 2, 3, 1
    of_2 = in_order[1][1:, 2], as_they_came[1][1:, 1]
    assert np.abs(of_2[0] - of_2[1]).max() > 0.01  # for this system the order counts


def test_a_step_compiles_once_for_any_length(proposing, clip):
    start, step, *_ = compiled(proposing[0])
    for function in (start, step):
        function.clear_cache()
    stream(*proposing, clip[0][:3], {})
    stream(*proposing, np.concatenate([clip[0], clip[0]]), {})
    assert (start._cache_size(), step._cache_size()) == (1, 1)


def test_a_frame_size_of_its_own_leaves_results_at_the_frames_size(one_shot, clip):
    model = one_shot[0].clone(size=(24, 32))
    frames, masks = clip
    assert model.preprocess(frames[0]).shape == (24, 32, 3)
    labels, probabilities = stream(model, one_shot[1], frames, {0: masks[0]})
    assert labels.shape == masks.shape and probabilities.shape[2:] == masks.shape[1:]


def test_views_hand_each_scale_its_own_form_of_the_masks(one_shot, proposing, clip):
    frames, masks = clip[0][:4], clip[1]
    found = stream(Views(one_shot[0], flip=True), one_shot[1], frames, {0: masks[0]})
    given = {0: masks[0][:, ::-1]}
    other = stream(Views(one_shot[0], flip=True), one_shot[1], frames[:, :, ::-1], given)
    np.testing.assert_allclose(other[1][..., ::-1], found[1], **NEAR)
    assert stream(Views(proposing[0], flip=True), proposing[1], frames, {})[0].shape == (4, 40, 56)


# ---- frames that are looked at beforehand ----


def test_observed_frames_are_what_later_ones_are_compared_with(looking, clip):
    model, variables = looking
    frames = clip[0]
    assert model.reference_frames(6, 0) == (1, 4) and model.reference_frames(1, 0) == (0,)
    segmenter = VideoSegmenter(model, variables)
    segmenter.observe([frames[1], frames[4]])
    found = [(segmenter.step(frame), segmenter.probabilities()) for frame in frames]
    features = [
        model.apply(variables, prepared(model, [f])[0], method=model.encode) for f in frames
    ]
    mean = (features[1] + features[4]).mean(axis=(1, 2)) / 2
    for (labels, probabilities), each in zip(found, features, strict=True):
        expected = model.probabilities(
            np.abs(each - mean[:, None, None]).sum(axis=-1) - 1, (40, 56)
        )
        np.testing.assert_allclose(probabilities, expected[0], **NEAR)
        np.testing.assert_array_equal(labels, probabilities.argmax(axis=0))
    alone = stream(model, variables, frames, {})
    assert np.abs(alone[1][1] - found[1][1]).max() > 0.01


def test_observing_is_refused_with_what_to_do(looking, one_shot, clip):
    frames, masks = clip
    with pytest.raises(ValueError, match="Recurrent learns its objects from given masks"):
        VideoSegmenter(*one_shot).observe(frames[:1])
    segmenter = VideoSegmenter(*looking)
    with pytest.raises(ValueError, match="one or more frames to observe"):
        segmenter.observe([])
    with pytest.raises(ValueError, match=r"one size, found \(40, 56\) and \(20, 56\)"):
        segmenter.observe([frames[0], frames[1][:20]])
    with pytest.raises(ValueError, match="Looking finds its objects itself and takes no masks"):
        segmenter.step(frames[0], masks[0])
    segmenter.step(frames[0])
    with pytest.raises(ValueError, match="observe comes before its first step"):
        segmenter.observe(frames[:1])


def test_videos_of_any_length_are_observed_by_one_program(looking, clip):
    observe = compiled(looking[0])[3]
    observe.clear_cache()
    for length in (4, 6):
        segmenter = VideoSegmenter(*looking)
        segmenter.observe([clip[0][t] for t in looking[0].reference_frames(length, 0)])
        segmenter.step(clip[0][0])
    assert observe._cache_size() == 2  # the first reference and all others


# ---- training ----


def batch_of(clip, frames=4):
    images, masks = clip[0][None, :frames].astype(np.float32), clip[1][None, :frames]
    return {"frames": images, "labels": masks, "valid": np.ones((1, 2), bool)}


@functools.cache
def loss_of(model, **train):
    return jax.jit(make_objective(model, {**TRAIN, **train}, {}))


def test_the_first_frame_may_count_in_training_and_single_images_train(one_shot, clip):
    model, variables = one_shot
    for frames in (1, 2, 5):
        inputs = prepared(model, clip[0][:frames])
        masks = one_hot(clip[1][:frames], 2)[None]
        valid = np.ones((1, 2), bool)
        predictions, _ = rollout(model, variables, inputs, masks, valid, num_given=0)
        assert predictions.logits.shape[0] == frames
    gradient = jax.grad(
        lambda p: loss_of(model)(
            {**variables, "params": p}, batch_of(clip, 1), 0, jax.random.key(0)
        )[0].sum()
    )(variables["params"])
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(gradient))
    assert np.abs(gradient["gates"]["kernel"]).max() > 0


def test_the_frame_after_the_first_sees_its_true_masks_while_forced(one_shot, clip):
    model, variables = one_shot
    objective = loss_of(model, teacher_forcing_steps=3)

    def losses(step, changed):
        batch = batch_of(clip, 2)
        hidden = {**variables, "batch_stats": variables["batch_stats"]}
        batch["frames"][:, 0] += changed
        return objective(hidden, batch, jnp.int32(step), jax.random.key(0))[0]

    forced, alone = losses(2, 0), losses(3, 0)
    assert not np.allclose(forced, alone, rtol=1e-4)
    assert objective._cache_size() == 1


@pytest.mark.parametrize(
    ("model", "num_given", "words"),
    [(Recurrent(), 2, "takes 0 or 1"), (Looking(), 3, "takes 0 or 1")],
)
def test_a_number_of_given_frames_that_cannot_be_is_refused(model, num_given, words):
    with pytest.raises(ValueError, match=f"config.train.num_given: .* {words}.* found {num_given}"):
        make_objective(model, {**TRAIN, "num_given": num_given}, {})


def test_a_system_that_does_not_segment_its_first_frame_is_not_shown_it_to_itself():
    with pytest.raises(ValueError, match="Leaning takes 1 or more, found 0"):
        make_objective(Leaning(), TRAIN, {})


def test_a_mean_over_the_objects_of_a_batch_is_possible(one_shot, clip):
    """Rows with one and with two objects: not the mean of their means."""
    model, variables = one_shot
    rows = batch_of(clip)
    both = {key: np.concatenate([x, x]) for key, x in rows.items()}
    both["valid"] = np.array([[True, False], [True, True]])

    def losses(batch):
        return loss_of(model)(variables, batch, 0, jax.random.key(0))[0]

    one, two = (float(losses({k: x[i : i + 1] for k, x in both.items()})[0]) for i in range(2))
    np.testing.assert_allclose(losses(both).mean(), (one + 2 * two) / 3, rtol=1e-4)
    assert abs(one - two) > 1e-3


def moved(statistics, values, momentum=0.9):
    """Running mean and variance after one frame's values [..., C], as PyTorch moves them."""
    mean, var = (momentum * statistics[name] for name in ("mean", "var"))
    values = values.reshape(-1, values.shape[-1]).astype(np.float64)
    share = 1 - momentum
    return {"mean": mean + share * values.mean(0), "var": var + share * values.var(0, ddof=1)}


def test_live_statistics_of_the_head_move_once_for_each_frame_in_order(one_shot, clip):
    model, variables = one_shot
    batch = batch_of(clip, 5)
    found = loss_of(model)(variables, batch, 0, jax.random.key(0))[1]["norm"]
    expected = variables["batch_stats"]["norm"]
    for t in range(5):
        values = model.apply(
            variables, batch["frames"][:, t], method=lambda m, x: m.shared(m.encode(x))
        )
        expected = moved(expected, np.asarray(values))
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-4, atol=1e-6)


class Normalising(Leaning):
    """Its features are normalised by live statistics."""

    def setup(self):
        self.norm = BatchNorm()

    def encode(self, inputs, train=False):
        return self.norm(inputs, train).mean(axis=-1)

    def segment(self, memory, features, train=False):
        return (memory[:, 1] + features) / 2


@pytest.mark.parametrize("frames", [2, 3, 6])
@pytest.mark.parametrize("apart", [True, False])
def test_frames_are_normalised_together_or_each_alone(frames, apart):
    model, rng = Normalising(), np.random.default_rng(0)
    inputs = rng.normal(np.arange(frames)[:, None, None, None], 1, (2, frames, 8, 12, 3))
    variables = model.init(jax.random.key(0), inputs[0], train=True, method=model.encode)
    masks = np.zeros((2, frames, 2, 8, 12), np.float32)
    predictions, statistics = rollout(
        model,
        variables,
        inputs.astype(np.float32),
        masks,
        np.ones((2, 1), bool),
        train=True,
        frames_apart=apart,
        rng=jax.random.key(0),
    )
    parts = [inputs[:, t] for t in range(frames)] if apart else [inputs]
    expected = {"mean": np.zeros(3), "var": np.ones(3)}
    for part in parts:
        expected = moved(expected, part)
    for name, value in expected.items():
        np.testing.assert_allclose(statistics["norm"][name], value, rtol=1e-4, atol=1e-6)
    values = parts[-1 if not apart else 1].reshape(-1, 3)
    normalised = (inputs[:, 1] - values.mean(0)) / np.sqrt(values.var(0) + 1e-5)
    np.testing.assert_allclose(predictions[0], normalised.mean(-1) / 2, rtol=1e-3, atol=1e-4)


def test_eight_devices_train_as_one_does():
    results = json.loads(run_on_eight_devices("tests.systems.toy_devices"))
    single = results.pop("1x1")
    assert len(results) == 2 and np.ptp(single["losses"]) > 0.01
    for mesh, found in results.items():
        np.testing.assert_allclose(found["losses"], single["losses"], rtol=1e-4, err_msg=mesh)
        assert found["difference"] < 1e-4, mesh
    # where weights lie in parts each is gathered once, and nothing else but the losses is
    weights = [shape for shape in single["shapes"] if len(shape) == 4]
    assert results["8x1"]["gathered"] == [[8]]
    assert sorted(results["2x4"]["gathered"]) == sorted([*weights, [8]])
