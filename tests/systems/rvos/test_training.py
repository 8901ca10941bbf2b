"""Training steps of the three released scripts: losses, pairing, gradients, statistics.

The encoder runs frame by frame, as in the release; gradients go back through its own program.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from tests.fixtures import load_npz, skip_where_trimmed
from tests.systems.rvos.cases import released_model, released_variables
from tests.tiny import quick_compilation
from vos_jax.inference.rollout import advance, begin
from vos_jax.official.skip_decoder import source
from vos_jax.ops.assignment import assign
from vos_jax.ops.losses import soft_iou_costs
from vos_jax.systems.base import one_hot
from vos_jax.systems.rvos.model import OUTSIDE

SCRIPTS = {"zeroshot": ("zeroshot", False), "oneshot_gt": ("oneshot", True)}
SCRIPTS["oneshot_inf"] = ("oneshot", False)  # task, whether true masks are remembered
DECODER = (
    *(f"clstm_list.{level}.Gates.{leaf}" for level in range(4) for leaf in ("weight", "bias")),
    *("conv_out.weight", "conv_out.bias"),
)
ENCODER = (
    *("sk5.weight", "sk2.weight", "bn4.weight", "base.conv1.weight"),
    *("base.layer3.5.conv2.weight", "base.layer4.2.bn3.weight"),
)
PARTS = {"conv_out.weight": np.s_[:], "clstm_list.3.Gates.weight": np.s_[::8, ::8]}
TRIMMED = {f"{s}/gradnorm/{name}" for s in SCRIPTS for name in ENCODER}
TRIMMED |= {f"{s}/probs" for s in SCRIPTS if s != "oneshot_inf"}


@functools.cache
def case():
    return load_npz("rvos", "train_step")


def batch():
    return {
        "labels": jnp.asarray(case()["masks"]),
        "valid": jnp.asarray([[1, 1, 1], [1, 1, 0]]) > 0,
    }


@functools.cache
def encoded():
    """Features of each frame, the statistics before it, and those after the last."""
    model, variables = released_model("oneshot", 3), released_variables("oneshot")

    @jax.jit
    def run(params, statistics, frames):
        used = {"params": params, "batch_stats": statistics}
        features, updated = model.apply(
            used, frames, True, method=model.encode, mutable=["batch_stats"]
        )
        return features, updated["batch_stats"]

    features, statistics = [], [variables["batch_stats"]]
    with quick_compilation():
        for t in range(3):
            found = run(variables["params"], statistics[-1], case()["frames_rgb"][:, t])
            features.append(found[0])
            statistics.append(found[1])
    return features, statistics


def _mean_loss(model, predictions, frames):
    """Of the first frames."""
    first = jax.tree.map(lambda x: x[:frames], predictions)
    shortened = {**batch(), "labels": batch()["labels"][:, :frames]}
    return model.losses(first, shortened, jnp.int32(0)).mean()


@functools.cache
def program(task):
    """(decoder, features, whether true masks are remembered) -> losses, and their gradients."""
    model = released_model(task, 3).clone(decode_absent=True)
    labels, valid = batch()["labels"], batch()["valid"]
    size = labels.shape[2:]

    def clip_loss(decoder, features, forced):
        def call(method, *args, **options):
            return model.apply({"params": {"decoder": decoder}}, *args, method=method, **options)

        masks = jnp.moveaxis(one_hot(labels, 3), 1, 0)
        first = (features[0], size, masks[0], valid)
        memory, prediction = call(begin, *first, train=True, teacher_forcing=forced)
        seen = [prediction]
        for t in (1, 2):
            truth = dict(true_masks=masks[t], teacher_forcing=forced)
            memory, prediction = call(advance, memory, features[t], size, train=True, **truth)
            seen.append(prediction)
        stacked = jax.tree.map(lambda *x: jnp.stack(x), *seen)
        totals = [_mean_loss(model, stacked, frames) for frames in (1, 2, 3)]
        return totals[-1], (jnp.stack(totals), jnp.stack([model.maps(p) for p in seen]))

    return jax.jit(jax.value_and_grad(clip_loss, (0, 1), has_aux=True))


@functools.cache
def stepped(script):
    task, forced = SCRIPTS[script]
    decoder = released_variables(task)["params"]["decoder"]
    return program(task)(decoder, encoded()[0], jnp.bool_(forced))


@functools.cache
def pull():
    """(encoder, statistics, frames, gradients of features) -> gradients of what is stored."""
    model = released_model("oneshot", 3)
    params = traverse_util.flatten_dict(released_variables("oneshot")["params"], sep="/")
    chosen = {path for path in params if source(path.split("/")).name in ENCODER}

    @jax.jit
    def run(params, statistics, frames, gradients):
        rest = {path: x for path, x in params.items() if path not in chosen}

        def encode(chosen):
            whole = traverse_util.unflatten_dict({**rest, **chosen}, sep="/")
            used = {"params": whole, "batch_stats": statistics}
            return model.apply(used, frames, True, method=model.encode, mutable=["batch_stats"])[0]

        return jax.vjp(encode, {path: params[path] for path in chosen})[1](gradients)[0]

    return lambda *args: run(params, *args)


@functools.cache
def gradients(script):
    """Official name -> gradient, torch's layout."""
    _, (decoder, features) = stepped(script)
    found = traverse_util.flatten_dict({"decoder": decoder}, sep="/")
    if any(name in case() for name in TRIMMED if "gradnorm" in name):
        frames = np.moveaxis(case()["frames_rgb"], 1, 0)
        with quick_compilation():
            each = [pull()(*x) for x in zip(encoded()[1][:3], frames, features, strict=True)]
        found |= jax.tree.map(lambda *x: sum(x), *each)
    found = {source(path.split("/")).name: np.asarray(x) for path, x in found.items()}
    return {k: x.transpose(3, 2, 0, 1) if x.ndim == 4 else x for k, x in found.items()}


@pytest.mark.parametrize("script", SCRIPTS)
def test_losses_equal_the_release(script):
    (_, (totals, _)), _ = stepped(script)
    np.testing.assert_allclose(totals, case()[f"{script}/running_total"], rtol=1e-5)
    each = np.diff(totals, prepend=0)
    np.testing.assert_allclose(each, case()[f"{script}/frame_loss"], rtol=1e-5)


def test_zero_shot_pairs_objects_as_the_release():
    labels = batch()["labels"]
    (_, (_, maps)), _ = stepped("zeroshot")
    truth = one_hot(labels[:, 0], 3)[:, 1:]
    valid = batch()["valid"]
    pairs = valid[:, :, None] & valid[:, None]
    found = assign(jnp.where(pairs, soft_iou_costs(maps[0], truth), OUTSIDE))
    expected = case()["zeroshot/permutation"]
    np.testing.assert_array_equal(np.where(valid, found, 2), expected)


@pytest.mark.parametrize("script", SCRIPTS)
def test_probabilities_match_the_release(script):
    skip_where_trimmed(f"{script}/probs", case(), TRIMMED)
    (_, (_, maps)), _ = stepped(script)
    expected = case()[f"{script}/probs"]
    np.testing.assert_allclose(maps[..., ::2, ::2], expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", (*DECODER, *ENCODER))
@pytest.mark.parametrize("script", SCRIPTS)
def test_gradient_norms_match_the_release(script, name):
    stored = f"{script}/gradnorm/{name}"
    skip_where_trimmed(stored, case(), TRIMMED)
    found = np.linalg.norm(gradients(script)[name].ravel())
    np.testing.assert_allclose(found, case()[stored], rtol=1e-2)


@pytest.mark.parametrize("name", PARTS)
@pytest.mark.parametrize("script", SCRIPTS)
def test_gradients_match_the_release(script, name):
    expected = case()[f"{script}/grad/{name}"]
    found = gradients(script)[name][PARTS[name]]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-3 * np.abs(expected).max())


@pytest.mark.parametrize("script", SCRIPTS)
def test_running_statistics_move_once_for_each_frame(script):
    mean = encoded()[1][-1]["encoder"]["skip5"]["norm"]["mean"]
    np.testing.assert_allclose(mean, case()[f"{script}/bn5_running_mean_after"], atol=1e-5)
