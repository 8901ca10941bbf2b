"""Invariants of CFBI and CFBI+, on small networks."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.shrunk import quick_compilation
from tests.systems.streams import stream
from vos_jax.inference.rollout import rollout
from vos_jax.systems.base import one_hot
from vos_jax.systems.build import build_model, init_variables, variable_shapes
from vos_jax.train.optim import map_with_path, parameter_paths

SMALL = {
    "backbone": "mobilenet_v2",
    "width": 0.1,
    "decoder_channels": 8,
    "embedding_dim": 8,
    "head_width": 16,
    "groups": 2,
}
TINY = {
    "cfbi": {"name": "cfbi", **SMALL, "matching_dims": (8,), "windows": ((1, 2, 4),)},
    "cfbiplus": {
        "name": "cfbi_plus",
        **SMALL,
        "matching_dims": (2, 4, 8),
        "windows": ((2, 4), (1, 2), (1, 2)),
    },
}


@pytest.fixture(scope="module")
def quickly():
    with quick_compilation():
        yield


@pytest.fixture(scope="module", params=["cfbi", "cfbiplus"])
def tiny(request, quickly):
    """A small model and lively variables: what it says depends on frames, masks and memory."""
    model = build_model(TINY[request.param])
    variables = jax.device_get(init_variables(model, jax.random.key(2)))

    def lively(path, x):
        if "gamma" in path or path.endswith("_bias"):
            return x + 0.3
        return x * (8 if "ensembler/foreground" in path or "ensembler/background" in path else 1)

    return model, {**variables, "params": map_with_path(lively, variables["params"])}


def _rollout(model, variables, frames, masks, given=None):
    """Probabilities [T-1, N+1, H, W] of a clip, with masks as labels; pasted masks left out."""
    inputs = np.stack([model.preprocess(frame) for frame in frames])[None]
    size = masks.shape[1:]

    @jax.jit
    def run(variables, inputs, masks):
        valid = jnp.ones((1, 2), bool)
        masks = one_hot(masks, 2)[None]
        predictions, *_ = rollout(model, variables, inputs, masks, valid, given=given)
        return jax.vmap(lambda prediction: model.probabilities(prediction, size))(predictions)

    return np.asarray(run(variables, inputs, masks)[:, 0])


@pytest.fixture(scope="module")
def streamed(tiny, clip):
    frames, masks = clip
    labels, probabilities = stream(*tiny, frames, {0: masks[0]})
    shares = np.stack(probabilities[1:])
    assert shares.max() > 0.6 and shares.min() < 0.2  # otherwise it says little
    assert np.abs(shares[-1] - shares[0]).max() > 0.01
    return labels, probabilities


def test_streaming_equals_rollout(tiny, clip, streamed):
    expected = _rollout(*tiny, *clip)
    np.testing.assert_allclose(np.stack(streamed[1][1:]), expected, atol=1e-4)


def test_object_that_comes_later_is_segmented_from_the_next_frame_on(tiny, clip):
    frames, masks = clip
    model, variables = tiny
    first, later = np.where(masks == 2, 0, masks), np.where(masks == 1, 0, masks)
    labels, probabilities = stream(model, variables, frames, {0: first[0], 2: later[2]})
    np.testing.assert_array_equal(labels[2][later[2] == 2], 2)  # the given mask is pasted
    given = np.zeros((1, 6, 2), bool)
    given[0, 0, 0] = given[0, 2, 1] = True
    seen = np.stack([first[0], first[1], *later[2:]])
    expected = _rollout(model, variables, frames, seen, jnp.asarray(given))
    assert np.all(expected[:2, 2] == 0) and expected[2:, 2].max() > 0.1
    for t in (1, 3, 4, 5):
        known = len(probabilities[t])
        assert known == (2 if t < 2 else 3)
        np.testing.assert_allclose(probabilities[t], expected[t - 1, :known], atol=1e-4)


def test_frame_of_a_new_object_is_a_reference_for_all_objects(tiny, clip):
    """With the masks that stand for it, and for no other video of the batch."""
    model, variables = tiny
    frames, masks = clip
    inputs = jnp.stack([model.preprocess(frame) for frame in frames[:2]])[:, None].repeat(2, axis=1)
    labels = one_hot(jnp.asarray(masks[:2]), 2)[:, None].repeat(2, axis=1)

    @jax.jit
    def run(variables):
        def apply(method, *args):
            return model.apply(variables, *args, method=method)

        features = [apply(model.encode, x) for x in inputs]
        memory = apply(model.start, features[0], labels[0], jnp.asarray([[True, False]] * 2), 2)
        memory = apply(model.memorize, memory, features[1], None, labels[1])
        new = jnp.asarray([[False, True], [False, False]])
        return memory, apply(model.introduce, memory, features[1], labels[1], new)

    before, after = run(variables)
    assert after.present.tolist() == [[True, True, True], [True, True, False]]
    for old, found in zip(before.reference_labels, after.reference_labels, strict=True):
        pixels = found.shape[1] // 2
        assert set(np.unique(found[0, pixels:])) == {0, 1, 2}
        assert np.all(found[1, pixels:] == -1)
        np.testing.assert_array_equal(found[:, :pixels], old[:, :pixels])
    ratio = after.reference_sums.pixels / before.reference_sums.pixels
    assert ratio.tolist() == [2, 1] and after.reference_sums.counts[0, 2] > 0
    np.testing.assert_array_equal(after.reference_sums.sums[1], before.reference_sums.sums[1])


def test_padded_slots_change_neither_probabilities_nor_ids(tiny, clip, streamed):
    frames, masks = clip
    labels, probabilities = stream(*tiny, frames, {0: masks[0]}, slots=8)
    np.testing.assert_array_equal(labels, streamed[0])
    np.testing.assert_allclose(np.stack(probabilities), np.stack(streamed[1]), atol=1e-4)


def test_permuted_ids_permute_the_probabilities(tiny, clip, streamed):
    frames, masks = clip
    order = np.array([0, 2, 1], np.uint8)
    _, probabilities = stream(*tiny, frames, {0: order[masks[0]]})
    expected = np.stack(streamed[1])[:, order]
    np.testing.assert_allclose(np.stack(probabilities), expected, atol=1e-4)


ABLATIONS = {
    "background_matching": (False, {"prehead/conv": -4}),
    "background_attention": (False, {"ensembler/stage1_gate1/linear": -16}),
    "matching_bias": (False, {}),
}


@pytest.mark.parametrize("field", ABLATIONS)
def test_ablation_takes_its_share_of_the_input_away(field, quickly):
    value, removed = ABLATIONS[field]
    model = build_model(TINY["cfbi"])
    shapes = [
        dict(zip(parameter_paths(v), jax.tree.leaves(v), strict=True))
        for v in (variable_shapes(m)["params"] for m in (model, model.clone(**{field: value})))
    ]
    gone = shapes[0].keys() - shapes[1].keys()
    assert gone == ({"background_bias", "foreground_bias"} if field == "matching_bias" else set())
    for layer, channels in removed.items():
        kernels = [s[f"{layer}/kernel"].shape[-2] for s in shapes]
        assert kernels[1] - kernels[0] == channels


@pytest.mark.parametrize("system", TINY)
def test_model_of_a_stored_config_is_the_same_model(system):
    stored = json.loads(json.dumps(TINY[system]))
    assert build_model(stored) == build_model(TINY[system])
    assert hash(build_model(stored)) == hash(build_model(TINY[system]))


@pytest.mark.parametrize("field", ["matching_dims", "global_rates", "local_rates"])
def test_settings_of_another_number_of_scales_are_refused(field):
    model = build_model({**TINY["cfbiplus"], field: (1, 2)})
    with pytest.raises(ValueError, match=f"config.model.{field}: expected 3 entries"):
        variable_shapes(model)
