"""FEELVOS against the released implementation, and invariants of the model."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from tests.fixtures import golden_parameters, load_npz, load_spec
from tests.tiny import quick_compilation
from vos_jax.configs.feelvos import get_config
from vos_jax.inference.streaming import VideoSegmenter
from vos_jax.ops.resize import resize_nearest
from vos_jax.systems.base import one_hot
from vos_jax.systems.build import variable_shapes
from vos_jax.systems.feelvos.model import FEELVOS, Features, Memory
from vos_jax.systems.feelvos.official import from_official, source
from vos_jax.train.objective import make_objective
from vos_jax.train.optim import fits, map_with_path

TOLERANCE = 1e-4

# array of the fixture -> the module that returns it, which of its outputs, every how many channels
TAPS = {
    "block1": ("block1", 0, 8),
    "low_level": ("block2", 1, 8),
    "block3": ("block3", 0, 16),
    "middle": ("unit_16", 0, 16),
    "exit1": ("exit1", 0, 32),
    "backbone": ("exit2", 0, 32),
    "aspp": ("concat_projection", None, 8),
    "decoder": ("decoder_conv1", None, 8),
}


@pytest.fixture(scope="module", autouse=True)
def quickly():
    with quick_compilation():
        yield


def _official_variables(seed):
    """The fixture's weights, made by rule and passed through the importer."""
    spec = load_spec("feelvos")
    return from_official(golden_parameters(spec, spec[seed]), variable_shapes(FEELVOS())).variables


@pytest.fixture(scope="module")
def variables():
    return _official_variables("seed")


@pytest.fixture(scope="module")
def training_variables():
    return _official_variables("seed_c")


@pytest.fixture(scope="module")
def case():
    return load_npz("feelvos", "case_a")


def _encode(model, variables, frames):
    """Features of all frames, and what the modules of TAPS return: the channels that are stored."""
    tapped = {module for module, _, _ in TAPS.values()}

    @jax.jit
    def run(variables, frames):
        return model.apply(
            variables,
            frames,
            method=model.encode,
            capture_intermediates=lambda module, _: module.name in tapped,
            mutable=["intermediates"],
        )

    features, state = run(variables, frames)
    captured = state["intermediates"]["deeplab"]
    captured = captured | captured["backbone"]
    taps = {}
    for tap, (module, output, every) in TAPS.items():
        value = captured[module]["__call__"][0]
        taps[tap] = np.asarray(value if output is None else value[output])[..., ::every]
    return features, taps


@pytest.fixture(scope="module")
def encoded(variables, case):
    """Features and taps of the clip at output stride 8."""
    return _encode(FEELVOS(), variables, case["frames"])


def _memory(case, step, reference, previous):
    """The memory before `step`, from the stored arrays alone."""
    labels = case["masks"][0] if step == 1 else case[f"step{step - 1}/pred"]
    ids = len(case["step1/gt_ids"])
    masks = one_hot(jnp.asarray(np.stack([case["masks"][0], labels])), ids - 1)
    masks = resize_nearest(masks, reference.shape[:2], axes=(2, 3))
    return Memory(
        reference=jnp.asarray(reference).reshape(1, -1, reference.shape[-1]),
        reference_labels=jnp.argmax(masks[:1], axis=1).astype(jnp.int32).reshape(1, -1),
        count=jnp.int32(reference.shape[0] * reference.shape[1]),
        present=jnp.ones((1, ids), bool),
        previous=jnp.asarray(previous)[None],
        previous_masks=masks[1:],
    )


@pytest.mark.parametrize("tap", TAPS)
def test_backbone_and_decoder_at_output_stride_8_equal_the_release(tap, encoded, case):
    expected = np.stack([case[f"frame0/{tap}"], case[f"step1/{tap}"]])
    np.testing.assert_allclose(encoded[1][tap][:2], expected, atol=TOLERANCE, rtol=0)


def test_output_stride_16_equals_the_release_on_a_size_not_divisible_by_16(training_variables):
    case = load_npz("feelvos", "case_c")
    _, taps = _encode(FEELVOS(output_stride=16), training_variables, case["frames"])
    for tap in ("backbone", "decoder"):
        np.testing.assert_allclose(taps[tap], case[tap], atol=TOLERANCE, rtol=0)


def test_embedding_matches_the_release(encoded, case):
    expected = np.stack([case[f"{name}/emb"] for name in ("frame0", "step1", "step2")])
    np.testing.assert_allclose(encoded[0].embedding, expected, atol=TOLERANCE)


@functools.cache
def _step(model):
    """Jitted (variables, memory, features) -> cue maps, prediction."""

    @jax.jit
    def run(*args):
        return [model.apply(*args, method=method) for method in (model._cue_maps, model.segment)]

    return run


@pytest.mark.parametrize("step", [1, 2])
def test_each_step_matches_the_release(variables, encoded, case, step):
    model = FEELVOS()
    shared = encoded[0].shared[step][None]
    features = Features(shared, jnp.asarray(case[f"step{step}/emb"])[None])
    previous = case["frame0/emb" if step == 1 else f"step{step - 1}/emb"]
    memory = _memory(case, step, case["frame0/emb"], previous)

    cues, prediction = _step(model)(variables, memory, features)
    np.testing.assert_allclose(cues[0], case[f"step{step}/head_in_last3"], atol=1e-4)
    logits = jnp.moveaxis(prediction.logits[0], 0, -1)
    np.testing.assert_allclose(logits, case[f"step{step}/logits"], atol=5e-4)
    np.testing.assert_allclose(jax.nn.softmax(logits), case[f"step{step}/soft"], atol=5e-4)
    labels = model.labels(prediction, case["frames"].shape[1:3])[0]
    assert (np.asarray(labels) != case[f"step{step}/pred"]).mean() <= 0.01


def test_streaming_a_clip_matches_the_release(variables, case):
    segmenter = VideoSegmenter(FEELVOS(), variables, slots=4)
    for t, frame in enumerate(case["frames"]):
        labels = segmenter.step(frame, case["masks"][0] if t == 0 else None)
        if t:
            assert (labels != case[f"step{t}/pred"]).mean() <= 0.01


def test_training_losses_and_gradients_match_the_release(training_variables):
    case = load_npz("feelvos", "case_c")
    losses_and_gradients = _training_step(training_variables, case)
    for step in (0, 150_000):
        gradients, losses = losses_and_gradients(training_variables["params"], jnp.int32(step))
        np.testing.assert_allclose(losses, case[f"losses_step{step}"], atol=1e-4)
        prefix = f"grad_step{step}/"
        wanted = {k.removeprefix(prefix): v for k, v in case.items() if k.startswith(prefix)}
        found = _official_gradients(gradients, wanted)
        assert len(wanted) == len(found) == 10
        for name, expected in wanted.items():
            # the true gradient of the last bias is 0: only rounding is left of it
            scale = 1.0 if name == "logits/semantic/biases" else np.abs(expected).max()
            np.testing.assert_allclose(
                found[name] / scale, expected / scale, atol=0.02, err_msg=f"{name}, step {step}"
            )
    _, losses = losses_and_gradients(training_variables["params"], jnp.int32(40_000))
    np.testing.assert_allclose(losses, case["losses_step40000"], atol=1e-4)
    assert losses_and_gradients._cache_size() == 1  # the mining schedule is traced


def _training_step(variables, case):
    """Jitted (params, step) -> gradients of the summed losses, losses."""
    # dropout off and statistics frozen, as the fixture was made
    model = FEELVOS(output_stride=16, dropout=0.0)
    objective = make_objective(
        model, {"num_given": 2, "teacher_forcing_steps": 1, "frames_apart": False}, {}
    )
    batch = {
        "frames": case["frames"].reshape(2, 3, *case["frames"].shape[1:]),
        "labels": case["masks"].reshape(2, 3, *case["masks"].shape[1:]),
        "valid": np.array([[True, True], [True, False]]),
    }

    def total(params, step):
        losses, _, _ = objective({**variables, "params": params}, batch, step, jax.random.key(0))
        return losses.sum(), losses

    return jax.jit(jax.grad(total, has_aux=True))


def _official_gradients(gradients, names):
    """Gradients under official names; every change of layout is its own inverse."""
    found = {}
    flat = traverse_util.flatten_dict(gradients, sep="/")
    for path, gradient in flat.items():
        name, transform = source(path.split("/"))
        if name in names:
            found[name] = transform(np.asarray(gradient))
    return found


def test_weight_decay_takes_the_variables_the_release_regularises(training_variables):
    settings = get_config("paper").optim

    def decay(path, p):
        return (
            0.5
            * settings.weight_decay
            * np.sum(np.square(p, dtype=np.float64))
            * fits(settings.decay, path)
        )

    total = sum(jax.tree.leaves(map_with_path(decay, training_variables["params"])))
    expected = load_npz("feelvos", "case_c")["weight_decay_total"]
    np.testing.assert_allclose(total, expected, rtol=1e-5)
