"""A-GAME against the released implementation: a clip and a training step, every stored array."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from tests.fixtures import golden_parameters, load_npz, load_spec, skip_where_trimmed
from vos_jax.inference.rollout import advance
from vos_jax.systems.agame.model import AGAME
from vos_jax.systems.agame.official import from_official
from vos_jax.systems.base import one_hot
from vos_jax.systems.build import variable_shapes
from vos_jax.train.objective import make_objective

SIZE = (96, 128)
OF_OBJECTS = ("app", "coarse", "upd_seg", "means", "covs", "dyn", "fused", "score")
# frame -> what the fixture holds of each object there
STORED = {1: OF_OBJECTS, 2: OF_OBJECTS[:5], 4: OF_OBJECTS}
ARRAYS = (
    *("feat1_s16", "feat1_s8", "feat1_s4", "init_convfeats", "f1_convfeats"),
    *(f"init{i}_{name}" for i in (0, 1) for name in ("seg", "means", "covs")),
    *(f"f{t}_o{o}_{name}" for t, names in STORED.items() for o in (1, 2) for name in names),
    *(f"f{t}_aggprob" for t in (1, 2, 3, 4)),
)
TRIMMED = {
    *("feat1_s8", "feat1_s4", "f1_convfeats", "f2_aggprob", "f3_aggprob"),
    *(f"f2_o{o}_{name}" for o in (1, 2) for name in STORED[2]),
    *(f"f4_o{o}_{name}" for o in (1, 2) for name in ("dyn", "fused", "score")),
}


def official_variables(seed):
    """The fixture's weights, made by rule and passed through the importer."""
    spec = load_spec("agame")
    return from_official(golden_parameters(spec, spec[seed]), variable_shapes(AGAME())).variables


@pytest.fixture(scope="module")
def released():
    """Our arrays under the fixture's names and in its layout, for a clip; and the labels."""
    model, variables = AGAME(), official_variables("seed")
    case = load_npz("agame", "case_a")
    encode, start, step = _jitted(model)
    frames = case["frames"]
    features = encode(variables, frames[1:2])
    found = {
        "feat1_s16": _first(features.s16)[:, ::16],
        "feat1_s8": _first(features.s8)[:, ::16],
        "feat1_s4": _first(features.s4)[:, ::16, ::2, ::2],
        "f1_convfeats": _first(features.appearance),
        "labels": [],
    }
    first = one_hot(jnp.asarray(case["masks"][:1]), 2)
    features = encode(variables, frames[:1])
    found["init_convfeats"] = _first(features.appearance)
    memory = start(variables, features, first)
    for i in (0, 1):
        found |= {f"init{i}_{name}": x for name, x in _remembered(memory, i).items()}
    for t in range(1, len(frames)):
        memory, scores, probabilities, inner = step(variables, memory, frames[t : t + 1])
        found["labels"].append(np.argmax(probabilities[0], axis=0))
        found[f"f{t}_aggprob"] = np.asarray(probabilities)[:, 1:, ::2, ::2]
        for o in (1, 2):
            arrays = {name: _first(x[o - 1 : o]) for name, x in inner.items()}
            arrays |= {
                name.replace("seg", "upd_seg"): x for name, x in _remembered(memory, o - 1).items()
            }
            fine = jax.image.resize(_first(scores.fine[:, o - 1]), (1, 2, *SIZE), "bilinear")
            arrays |= {"coarse": _first(scores.coarse[:, o - 1]), "score": fine[..., ::2, ::2]}
            arrays |= {"dyn": arrays["dyn"][:, ::8], "fused": arrays["fused"][:, ::4]}
            found |= {f"f{t}_o{o}_{name}": x for name, x in arrays.items()}
    return case, found


def _jitted(model):
    """encode, start and step, which also gives inner arrays [N, h, w, C] by the fixture's names."""
    names = {"propagation": "dyn", "fusion": "fused"}

    @jax.jit
    def encode(variables, frames):
        return model.apply(variables, frames, method=model.encode)

    @jax.jit
    def start(variables, features, masks):
        return model.apply(variables, features, masks, jnp.ones((1, 2), bool), method=model.start)

    @jax.jit
    def step(variables, memory, frame):
        features = model.apply(variables, frame, method=model.encode)
        scores = model.apply(variables, memory, features, method=model.appearance_scores)
        (memory, prediction), state = model.apply(
            variables,
            memory,
            features,
            SIZE,
            method=advance,
            capture_intermediates=lambda module, method: method == "__call__",
            mutable=["intermediates"],
        )
        inner = {names[k]: state["intermediates"][k]["__call__"][0] for k in names}
        inner["fused"], _ = inner["fused"]
        return memory, prediction, model.probabilities(prediction, SIZE), inner | {"app": scores}

    return encode, start, step


def _first(x):
    """Channels first."""
    return np.moveaxis(np.asarray(x), -1, 1)


def _remembered(memory, slot):
    masks = np.asarray(memory.previous[:, slot])
    mixture = jax.tree.map(lambda x: np.asarray(x[0, slot]), memory.mixture)
    return {
        "seg": np.stack([1 - masks, masks], axis=1),
        "means": mixture.means,
        "covs": mixture.variances,
    }


@pytest.mark.parametrize("name", ARRAYS)
def test_intermediate_matches_the_release(name, released):
    case, found = released
    skip_where_trimmed(name, case, TRIMMED)
    expected = case[name]
    np.testing.assert_allclose(
        found[name], expected, rtol=0, atol=1e-4 * np.abs(expected).max(), strict=True
    )


def test_masks_of_a_clip_equal_the_release(released):
    case, found = released
    np.testing.assert_array_equal(found["labels"], case["pred"][1:])


def test_the_regulariser_is_the_releases(released):
    found = official_variables("seed")["params"]["regulariser"]
    np.testing.assert_allclose(found, released[0]["cov_reg"], rtol=1e-6)


# the part of each gradient that the fixture stores, and where ours lies
GRADIENTS = {
    "cov_reg": ("regulariser", np.s_[:]),
    "conv_in": ("conv_in/kernel", np.s_[::16, ::32, 0, 0]),
    "fus_pred": ("fusion/predictor/kernel", np.s_[:, :, 0, 0]),
    "seg_pred": ("upsampling/predictor/kernel", np.s_[:]),
    "l4_conv": ("backbone_network/network/layer4_2/conv3/conv/kernel", np.s_[::64, ::16, 0, 0]),
    "l4_bn": ("backbone_network/network/layer4_2/conv3/norm/scale", np.s_[:]),
    "dyn0": ("", np.s_[::16, ::64, 0, 0]),  # of four kernels side by side
}
PARTS = [f"propagation/{part}/kernel" for part in ("now", "then", "previous", "given")]
STATISTICS = {
    "bn_l4_0_bn1_running_mean": "layer4_0/conv1/norm/mean",
    "bn_l4_2_bn3_running_var": "layer4_2/conv3/norm/var",
}


@functools.cache
def _training_step():
    """Losses of final and coarse masks, gradients by path, statistics by path."""
    case, variables = load_npz("agame", "case_c"), official_variables("seed_c")
    model = AGAME(fed_back="coarse")
    train = {"num_given": 1, "teacher_forcing_steps": 0, "frames_apart": True}
    frames = case["frames"].shape[1]
    scale = {"scale": (frames - 1) / frames}
    batch = {"frames": case["frames"], "labels": case["masks"].astype(np.int32)}
    batch["valid"] = np.ones((2, 1), bool)
    flat = traverse_util.flatten_dict(variables["params"], sep="/")
    wanted = [path for path, _ in GRADIENTS.values() if path] + PARTS

    def total(chosen, coarse_weight):
        params = traverse_util.unflatten_dict({**flat, **chosen}, sep="/")
        used = {"params": params, "batch_stats": variables["batch_stats"]}
        settings = {**scale, "coarse_weight": coarse_weight}
        objective = make_objective(model, train, settings)
        losses, statistics, _ = objective(used, batch, jnp.int32(0), jax.random.key(0))
        return losses.mean(), statistics

    # of the stored gradients alone: the others would take most of the time to compile
    chosen = {path: flat[path] for path in wanted}
    step = jax.jit(jax.value_and_grad(total, has_aux=True))
    (both, statistics), gradients = step(chosen, 1.0)
    (final, _), _ = step(chosen, 0.0)
    statistics = traverse_util.flatten_dict(statistics, sep="/")
    return final, both - final, gradients, statistics


@pytest.mark.parametrize("name", ["loss_final", "loss_coarse"])
def test_training_losses_match_the_release(name):
    final, coarse, *_ = _training_step()
    found = {"loss_final": final, "loss_coarse": coarse}[name]
    # the first frame, which is given, has a loss of about 1e-7 in the release
    np.testing.assert_allclose(found, load_npz("agame", "case_c")[name], rtol=1e-5)


@pytest.mark.parametrize("name", GRADIENTS)
def test_training_gradient_matches_the_release(name):
    expected = load_npz("agame", "case_c")[f"grad_{name}"]
    gradients = _training_step()[2]
    path, part = GRADIENTS[name]
    found = gradients[path] if path else jnp.concatenate([gradients[p] for p in PARTS], axis=2)
    found = np.asarray(found)
    found = (found.transpose(3, 2, 0, 1) if found.ndim == 4 else found)[part]
    # how far the release's own float32 is from its float64
    noise = load_spec("agame")["float32_noise"]["c"][f"grad_{name}"]["max_abs_diff_f32_vs_f64"]
    atol = max(1e-4 * np.abs(expected).max(), 4 * noise)
    np.testing.assert_allclose(found, expected, rtol=0, atol=atol, strict=True)


@pytest.mark.parametrize("name", STATISTICS)
def test_live_statistics_of_the_last_layer_match_the_release(name):
    expected = load_npz("agame", "case_c")[name]
    found = _training_step()[3][f"backbone_network/network/{STATISTICS[name]}"]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


def test_only_the_last_layer_has_live_statistics():
    before = traverse_util.flatten_dict(official_variables("seed_c")["batch_stats"], sep="/")
    after = _training_step()[3]
    moved = {
        path.split("/")[2].split("_")[0] for path in before if (before[path] != after[path]).any()
    }
    assert moved == {"layer4"}
