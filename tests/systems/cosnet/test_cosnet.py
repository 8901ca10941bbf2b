"""COSNet: references shown or met on the way, mechanisms, fusion, what a pair is scored by."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.tiny import quick_compilation, tiny_section, tiny_system
from vos_jax.inference.crf import CRF
from vos_jax.inference.setup import Inference
from vos_jax.inference.streaming import VideoSegmenter, compiled
from vos_jax.ops.coattention import dense_summaries
from vos_jax.systems.build import build_model, variable_shapes
from vos_jax.systems.cosnet.model import COSNet, Features, Pair, Prediction

SHOWN = {"selection": "uniform", "num_references": 3}


@pytest.fixture(scope="module", autouse=True)
def quickly():
    with quick_compilation():
        yield


def observed(frames, references, **fields):
    """A segmenter that was shown references."""
    segmenter = VideoSegmenter(*tiny_system("cosnet", **fields))
    segmenter.observe([frames[t] for t in references])
    return segmenter


@functools.cache
def _embedding():
    """Function of variables and frames -> embeddings."""
    model, _ = tiny_system("cosnet")
    return jax.jit(lambda variables, x: model.apply(variables, x, method=model.encode).embedding)


def pairwise(frames, references, t, legacy):
    """The foreground of frame t as the release has it: a dense pass for each pair, averaged."""
    model, variables = tiny_system("cosnet", **SHOWN)

    def one(model, x, y):
        valid = jnp.ones((1, 1), bool)
        found = dense_summaries(model.affinity.query(x), y, y, valid, legacy=legacy)
        found = model.gate(found.reshape(1, 1, *x.shape[1:]))
        return model.head(found, x)[:, 0]

    embedding = _embedding()(variables, frames)
    maps = []
    for r in references:
        x, y = embedding[t : t + 1], embedding[r : r + 1, None]
        logits = model.apply(variables, x, y, method=one)
        size = (1, *frames.shape[1:3])
        maps.append(jax.nn.sigmoid(jax.image.resize(logits, size, "linear"))[0])
    return np.mean(maps, axis=0)


@pytest.mark.parametrize("legacy", [False, True])
def test_observing_and_stepping_is_the_mean_over_dense_pairs(legacy, clip):
    frames, references = clip[0], (1, 4, 5)
    segmenter = observed(frames, references, legacy_double_softmax=legacy, **SHOWN)
    for t in (0, 1):
        labels = segmenter.step(frames[t])
        found, expected = segmenter.probabilities(), pairwise(frames, references, t, legacy)
        assert 0.01 < expected.mean() < 0.99
        np.testing.assert_allclose(found, [1 - expected, expected], atol=5e-4)
        np.testing.assert_array_equal(labels, found.argmax(axis=0))


def test_videos_of_other_lengths_compile_nothing(clip):
    frames = clip[0]
    model, variables = tiny_system("cosnet", **SHOWN)
    functions = compiled(model)
    for function in functions:
        function.clear_cache()
    for length in (5, 40, 7):
        segmenter = VideoSegmenter(model, variables)
        segmenter.observe([frames[t % 6] for t in model.reference_frames(length, 0)])
        for t in range(min(length, 6)):
            segmenter.step(frames[t])
        segmenter.probabilities()
    start, step, probabilities, observe = (f._cache_size() for f in functions)
    assert (start, step, probabilities) == (0, 1, 1)
    assert observe == 2  # the first reference makes the memory


def test_references_are_all_over_the_video_and_no_frame_twice():
    uniform = COSNet(selection="uniform")
    assert uniform.reference_frames(100, 0) == (10, 30, 50, 70, 90)
    assert uniform.reference_frames(3, 0) == (0, 1, 2)
    drawn = {COSNet().reference_frames(100, seed) for seed in range(20)}
    assert len(drawn) == 20
    assert all(len(set(frames)) == 5 and max(frames) < 100 for frames in drawn)
    assert COSNet().reference_frames(100, 7) == COSNet().reference_frames(100, 7)
    for fields in ({"num_references": 0}, {"attention": "none"}, {"selection": "past"}):
        assert COSNet(**fields).reference_frames(100, 0) == ()


def written(segmenter):
    """Numbers of the frames in the memory, counted from 1."""
    number = np.asarray(segmenter._memory.bank.number[0])
    return sorted(number[number > 0].tolist())


@pytest.mark.parametrize("selection", ["consecutive", "past"])
def test_a_stream_remembers_its_last_frames_or_some_of_all(selection, clip):
    segmenter = VideoSegmenter(*tiny_system("cosnet", selection=selection, num_references=3))
    for t in range(20):
        segmenter.step(clip[0][t % 6])
        if t < 3:
            assert written(segmenter) == list(range(1, t + 2))
    found = written(segmenter)
    assert len(found) == 3 and found[-1] == 20
    if selection == "consecutive":
        assert found == [18, 19, 20]
    else:
        assert max(np.diff([0, *found])) <= 10


def test_the_first_frame_of_a_stream_looks_at_itself(clip):
    frames = clip[0]
    segmenter = VideoSegmenter(*tiny_system("cosnet", selection="past", num_references=3))
    segmenter.step(frames[0])
    expected = pairwise(frames, (0,), 0, False)
    np.testing.assert_allclose(segmenter.probabilities()[1], expected, atol=5e-4)


def test_without_references_the_encoder_answers_alone(clip):
    frames = clip[0]
    segmenter = VideoSegmenter(*tiny_system("cosnet", num_references=0))
    segmenter.step(frames[1])
    segmenter.step(frames[0])
    model, variables = tiny_system("cosnet")
    features = jax.jit(lambda x: model.apply(variables, x, method=model.encode))(frames)
    logits = jax.image.resize(features.logits[0], frames.shape[1:3], "linear")
    found = segmenter.probabilities()[1]
    np.testing.assert_allclose(found, jax.nn.sigmoid(logits), atol=1e-4)


def test_one_reference_is_fused_alike_and_several_are_not(clip):
    frames, found = clip[0], {}
    model, variables = tiny_system("cosnet", selection="uniform")
    features = jax.jit(lambda x: model.apply(variables, x, method=model.encode))(frames)
    target, *references = (jax.tree.map(lambda x, t=t: x[t : t + 1], features) for t in range(4))
    memory = model.apply(variables, references[0], None, jnp.ones((1, 1), bool), 3, method="start")
    for count in (1, 3):
        for fusion in ("prediction", "attention", "joint"):
            fused = model.clone(fusion=fusion)

            @jax.jit
            def run(memory, fused=fused):
                prediction = fused.apply(variables, memory, target, method=fused.segment)
                return fused.probabilities(prediction, frames.shape[1:3])

            found[count, fusion] = run(memory)
        for reference in references[1:]:
            memory = model.apply(variables, memory, reference, None, None, method="memorize")
    np.testing.assert_allclose(found[1, "prediction"], found[1, "attention"], atol=1e-4)
    np.testing.assert_allclose(found[1, "prediction"], found[1, "joint"], atol=1e-4)
    for one, other in (("prediction", "attention"), ("attention", "joint")):
        assert np.abs(found[3, one] - found[3, other]).max() > 1e-3


# ---- mechanisms ----


@pytest.mark.parametrize("attention", ["vanilla", "symmetric", "channelwise"])
def test_both_directions_have_one_affinity(attention):
    """S of a pair, and its transpose the other way round; a diagonal or symmetric W where it is."""
    model, variables = tiny_system("cosnet", attention=attention)
    rng = np.random.default_rng(0)
    target, reference = rng.normal(size=(2, 1, 3, 4, 8)).astype(np.float32)

    def affinities(model):
        one = model.affinity.query(target), model.affinity.keys(reference[:, None])
        scores = []
        for query, keys in (one, model.affinity.turned(reference, target)):
            scores.append(query[0] @ keys.reshape(12, 8).T)
        return scores

    there, back = model.apply(variables, method=affinities)
    np.testing.assert_allclose(there, back.T, atol=1e-4 * np.abs(there).max())
    if attention == "channelwise":
        return
    matrix = model.apply(variables, method=lambda model: model.affinity.matrix())
    np.testing.assert_allclose(
        there, target.reshape(12, 8) @ matrix @ reference.reshape(12, 8).T, atol=1e-4
    )
    assert (np.abs(matrix - matrix.T).max() < 1e-5) == (attention == "symmetric")


def test_only_symmetric_coattention_pays_for_a_projection_that_is_not_orthogonal():
    parts = {}
    for attention in ("vanilla", "symmetric", "channelwise", "none"):
        model, variables = tiny_system("cosnet", attention=attention, gate_bias=True)
        parts[attention] = variables["params"].keys()
        features = Features(jnp.ones((1, 3, 4, 8)), jnp.ones((1, 3, 4)), (24, 32))
        pair = model.apply(variables, features.embedding, features, method=model._pair).pair
        assert (pair.penalty > 0.01).all() == (attention == "symmetric")
    assert parts["none"] == {"encoder", "encoder_logits"}
    assert parts["vanilla"] == parts["none"] | {"affinity", "gate", "head", "reference_head"}


def test_an_unknown_choice_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"config.model.fusion: expected one of .*found 'mean'"):
        variable_shapes(build_model(tiny_section("cosnet", fusion="mean")))


# ---- training ----


def loss_of(step, **settings):
    """Losses of two pairs whose maps are right, but for one of them by turns."""
    labels = np.zeros((2, 2, 8, 8), np.uint8)
    labels[:, :, :4] = 1
    labels[1, 0, 0] = 255  # unknown
    right = np.where(labels == 1, 9.0, -9.0)
    maps = {"target": right[:, 1], "reference": right[:, 0], "encoder": right[:, 0]}

    def losses(wrong):
        x = {name: jnp.asarray(m if name != wrong else -m)[None] for name, m in maps.items()}
        pair = Pair(x["reference"], x["encoder"], jnp.full((1, 2), 0.5))
        counts = jnp.ones((1, 2, 1), bool)
        predictions = Prediction(x["target"][:, :, None], counts, pair, (8, 8))
        return COSNet().losses(predictions, {"labels": labels}, jnp.int32(step), **settings)

    return {wrong: np.asarray(losses(wrong)) for wrong in ("nothing", *maps)}


def test_pairs_are_scored_by_both_maps_and_image_steps_by_the_encoders():
    pairs = loss_of(1, image_every=3)
    assert (pairs["nothing"] < 0.06).all() and (pairs["encoder"] == pairs["nothing"]).all()
    assert (pairs["target"] > 10).all() and (pairs["reference"] > 10).all()
    images = loss_of(3, image_every=3)
    assert (images["target"] == images["nothing"]).all()
    assert (images["encoder"] > 1).all()
    np.testing.assert_allclose(
        loss_of(3, image_every=3, image_weight=1.0)["encoder"], 10 * images["encoder"], rtol=1e-5
    )
    never = loss_of(3)
    assert (never["encoder"] == never["nothing"]).all()
    without = loss_of(1, orthogonal=0.0)["nothing"]
    np.testing.assert_allclose(pairs["nothing"] - without, 0.05, rtol=1e-2)


# ---- with a field ----


def test_a_field_refines_what_is_answered_and_nothing_that_is_remembered(clip):
    frames = clip[0]
    model, variables = tiny_system("cosnet")
    crf = CRF(steps=2, alike_pixels=5.0)
    plain = Inference(model).segmenter(variables)
    refined = Inference(model, crf=crf).segmenter(variables)
    changed = 0
    for frame in frames[:3]:
        pending = refined.dispatch(frame)
        labels = plain.step(frame)
        expected = crf.refine(frame, plain.probabilities())
        found = pending()
        np.testing.assert_array_equal(found, expected.argmax(axis=0))
        np.testing.assert_allclose(refined.probabilities(), expected, atol=1e-6)
        changed += (found != labels).sum()
    assert changed > 20
