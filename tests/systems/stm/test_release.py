"""STM against the released implementation: every stored array of a clip and of a training step."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from tests.fixtures import golden_parameters, load_npz, load_spec, skip_where_trimmed
from vos_jax.inference.rollout import advance
from vos_jax.ops.memory_read import affinity, memory_read
from vos_jax.systems.base import one_hot
from vos_jax.systems.build import variable_shapes
from vos_jax.systems.memory_bank import readable
from vos_jax.systems.stm.model import STM
from vos_jax.systems.stm.official import from_official, source
from vos_jax.train.objective import make_objective

SIZE = (96, 128)
GRID = (6, 8)
# arrays of a clip, and those of them that every fixture holds; "_n": frame n
ARRAYS = (
    *("m1_c1", "m1_r3", "m1_r4", "mem_key_1", "mem_val_1"),
    *("q1_r4", "q1_r3", "q1_r2", "q1_key", "q1_val"),
    *(f"{name}_{t}" for name in ("read", "aff", "m4", "m3", "m2", "p2") for t in (1, 5)),
)
KEPT = {"m1_r4", "mem_key_1", "q1_key", "q1_r2", "read_5", "m4_5", "m3_5", "m2_5", "p2_5"}


def _official_variables(seed):
    """The fixture's weights, made by rule and passed through the importer."""
    spec = load_spec("stm")
    return from_official(golden_parameters(spec, spec[seed]), variable_shapes(STM())).variables


@pytest.fixture(scope="module")
def released():
    """Our arrays under the fixture's names, for a clip with growing memory; and the labels."""
    model, variables = STM(memory_every=2, length=6), _official_variables("seed")
    case = load_npz("stm", "case_a")
    start, step, read = _instrumented(model)
    first = one_hot(jnp.asarray(case["mask0"])[None], 2)
    memory, found = start(variables, case["frames"][:1], first)
    found |= {"labels": [], "slots": []}
    for t in range(1, len(case["frames"])):
        found["slots"].append(int(readable(memory.bank, model.rule)[0, 0].sum()))
        frame = case["frames"][t][None]
        if t in (1, 5):
            read_arrays = read(variables, memory, frame)
        memory, masks, arrays = step(variables, memory, frame)
        if t in (1, 5):
            found |= {f"{k}_{t}": x for k, x in (read_arrays | arrays).items()}
        if t == 1:
            found |= {
                name.replace("q_", "q1_"): x for name, x in arrays.items() if name[:2] == "q_"
            }
        found["labels"].append(np.argmax(masks[0], axis=0))
        found.setdefault("probs", [first[0]]).append(masks[0])
    return case, found


def _instrumented(model):
    """Jitted start, step and read that return intermediate arrays by the fixture's names."""

    def captured(variables, *args, method):
        layers = ("bn1", "backbone", "res_mm", "rf3", "rf2")
        result, state = model.apply(
            variables,
            *args,
            method=method,
            capture_intermediates=lambda module, name: module.name in layers,
            mutable=["intermediates"],
        )
        flat = traverse_util.flatten_dict(state["intermediates"], sep="/")
        return result, {path: value[0] for path, value in flat.items()}

    @jax.jit
    def start(variables, frames, masks):
        features = model.apply(variables, frames, method=model.encode)
        valid = jnp.ones((1, 2), bool)
        memory, inner = captured(variables, features, masks, valid, method=model.start)
        maps = inner["memory_encoder/backbone/body"]
        keys, values = (
            x[:, :, 0].reshape(2, *GRID, -1) for x in (memory.bank.keys, memory.bank.values)
        )
        c1 = jax.nn.relu(inner["memory_encoder/backbone/bn1/__call__"])
        names = ("m1_c1", "m1_r3", "m1_r4", "mem_key_1", "mem_val_1")
        return memory, dict(zip(names, (c1, *maps[1:], keys, values), strict=True))

    @jax.jit
    def step(variables, memory, frame):
        features, inner = captured(variables, frame, method=model.encode)
        r4 = inner["query_encoder/backbone/__call__"][2]
        (memory, prediction), inner = captured(variables, memory, features, SIZE, method=advance)
        masks = model.probabilities(prediction, SIZE)
        arrays = {
            "q_r4": r4, "q_r3": features.r3, "q_r2": features.r2,
            "q_key": features.key, "q_val": features.value,
            "m4": inner["decoder/res_mm/__call__"], "m3": inner["decoder/rf3/__call__"],
            "m2": inner["decoder/rf2/__call__"], "p2": prediction.logits[0],
            "logit": jnp.log(masks),
        }  # fmt: skip
        return memory, masks, arrays

    @jax.jit
    def read(variables, memory, frame):
        features = model.apply(variables, frame, method=model.encode)
        query = features.key.reshape(1, -1, features.key.shape[-1])
        valid = readable(memory.bank, model.rule)
        seen = memory_read(query, memory.bank.keys, memory.bank.values, valid)
        weights = affinity(query, memory.bank.keys, valid)
        return {"read": seen.reshape(2, *GRID, -1), "aff": weights[0], "keys": memory.bank.keys[0]}

    return start, step, read


def _as_stored(name, x, channels_last=True):
    """An array of ours in the layout and with the strides that the fixture's description gives."""
    x = np.asarray(x)
    stem = name.rsplit("_", 1)[0]
    if stem == "aff":
        return x[:, : 48 * (1 if name == "aff_1" else 3)]
    channels = {"m1_c1": 16, "m1_r3": 32, "m1_r4": 16, "mem_val_1": 2, "q1_r4": 8, "q1_r3": 16}
    channels |= {"q1_r2": 16, "q1_val": 2, "read": 4, "m4": 8, "m3": 16, "m2": 16}
    stride = channels.get(name, channels.get(stem, 1))
    x = np.moveaxis(x, -1, -3)[..., ::stride, :, :]
    return x[..., ::2, ::2] if name in ("m1_c1", "q1_r2") or stem == "m2" else x


@pytest.mark.parametrize("name", ARRAYS)
def test_intermediate_matches_the_release(name, released):
    case, found = released
    skip_where_trimmed(name, case, set(ARRAYS) - KEPT)
    ours, expected = _as_stored(name, found[name]), case[name]
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("name", ["logit_1", "logit_5"])
def test_aggregated_logits_match_the_release(name, released):
    """Up to a constant per pixel: ours are logarithms of probabilities."""
    case, found = released
    skip_where_trimmed(name, case, {"logit_1"})
    ours, expected = np.asarray(found[name])[..., ::2, ::2], case[name]
    ours = ours - ours[:, :1] + expected[:, :1]
    np.testing.assert_allclose(ours, expected[:, :3], rtol=0, atol=1e-4 * 16)
    np.testing.assert_allclose(expected[:, 3], np.log(1e-7), atol=1e-3)  # an absent object


def test_memory_sizes_and_masks_of_a_clip_equal_the_release(released):
    case, found = released
    assert found["slots"] == case["mem_len"].tolist()
    np.testing.assert_array_equal(found["labels"], case["pred"][1:])


def test_probabilities_of_a_clip_match_the_release(released):
    case, found = released
    skip_where_trimmed("probs", case, {"probs"})
    ours = np.stack(found["probs"], axis=1)[..., ::2, ::2]
    np.testing.assert_allclose(ours, case["probs"][:3], atol=1e-4)


def test_keys_of_the_whole_memory_match_the_release(released):
    case, found = released
    skip_where_trimmed("last_mem_key", case, {"last_mem_key"})
    keys = np.asarray(found["keys_5"]).reshape(2, 3, *GRID, -1)[..., ::4]
    expected = np.moveaxis(case["last_mem_key"], 1, -1)
    np.testing.assert_allclose(keys, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


# the part of each gradient that the fixture stores
GRADIENTS = {
    "conv1_m": ("Encoder_M.conv1_m.weight", np.s_[:]),
    "conv1_o": ("Encoder_M.conv1_o.weight", np.s_[:]),
    "M_conv1": ("Encoder_M.conv1.weight", np.s_[::4]),
    "KVM_key": ("KV_M_r4.Key.weight", np.s_[::8, ::16]),
    "KVM_val": ("KV_M_r4.Value.weight", np.s_[::16, ::32]),
    "KVQ_key": ("KV_Q_r4.Key.weight", np.s_[::8, ::16]),
    "Q_res4": ("Encoder_Q.res4.5.conv3.weight", np.s_[::16, ::8, 0, 0]),
    "M_bn": ("Encoder_M.res4.5.bn3.weight", np.s_[:]),
    "pred2": ("Decoder.pred2.weight", np.s_[:]),
    "RF2": ("Decoder.RF2.convFS.weight", np.s_[::16, ::16]),
}

# gradients that every fixture holds: without and with detached memory
KEPT_GRADIENTS = {
    *("conv1_m", "M_bn", "KVQ_key", "Q_res4", "pred2", "RF2"),
    *("conv1_m_detach", "M_conv1_detach", "M_bn_detach", "KVM_key_detach"),
}
ALL_GRADIENTS = [f"{name}{end}" for end in ("", "_detach") for name in GRADIENTS]


@functools.cache
def _training_step(detach):
    """The total loss, and the stored gradients under the fixture's names, whole."""
    case, variables = load_npz("stm", "case_c"), _official_variables("seed_c")
    model = STM(length=3, detach=detach)
    objective = make_objective(
        model, {"num_given": 1, "teacher_forcing_steps": 0, "frames_apart": False}, {}
    )
    batch = {"frames": case["frames"][None], "labels": case["masks"][None]}
    batch["valid"] = np.ones((1, 2), bool)
    flat = traverse_util.flatten_dict(variables["params"], sep="/")
    paths = {source(path.split("/")).name: path for path in flat}

    def loss(chosen, flat, batch_stats):
        changed = {paths[name]: value for name, value in chosen.items()}
        params = traverse_util.unflatten_dict({**flat, **changed}, sep="/")
        used = {"params": params, "batch_stats": batch_stats}
        return objective(used, batch, jnp.int32(0), jax.random.key(0))[0].sum()

    end = "_detach" if detach else ""
    stored = [k for k in GRADIENTS if f"g_{k}{end}" in case]
    # of the stored gradients alone: the others would take most of the time to compile
    chosen = {GRADIENTS[k][0]: flat[paths[GRADIENTS[k][0]]] for k in stored}
    step = jax.jit(jax.value_and_grad(loss))
    total, gradients = step(chosen, flat, variables["batch_stats"])
    return total, {f"{k}{end}": np.asarray(gradients[GRADIENTS[k][0]]) for k in stored}


@pytest.mark.parametrize("detach", [False, True])
def test_training_loss_matches_the_released_network(detach):
    case, (total, _) = load_npz("stm", "case_c"), _training_step(detach)
    np.testing.assert_allclose(total, case["loss_B"] + case["loss_C"], rtol=1e-5)


@pytest.mark.parametrize("name", ALL_GRADIENTS)
def test_training_gradient_matches_the_released_network(name):
    case = load_npz("stm", "case_c")
    skip_where_trimmed(f"g_{name}", case, {f"g_{k}" for k in ALL_GRADIENTS} - KEPT_GRADIENTS)
    expected = case[f"g_{name}"]
    found = _training_step(name.endswith("_detach"))[1][name]
    found = found.transpose(3, 2, 0, 1) if found.ndim == 4 else found
    # float32 against float32: in float64 the same gradients are within 2e-4
    atol = 1e-3 * np.abs(expected).max()
    part = GRADIENTS[name.removesuffix("_detach")][1]
    np.testing.assert_allclose(found[part], expected, rtol=0, atol=atol)
