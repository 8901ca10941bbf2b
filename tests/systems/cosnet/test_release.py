"""COSNet against the released implementation: pairs, groups, a training step; all stored arrays."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from tests.fixtures import load_npz, skip_where_trimmed
from tests.systems.cosnet.cases import released_model, released_variables
from tests.tiny import quick_compilation
from vos_jax.data.augment import stretched_contrast
from vos_jax.nn.images import caffe_normalise
from vos_jax.ops.coattention import summaries
from vos_jax.systems.frame_size import resize_pillow

SIZE, RESIZED = (97, 129), (135, 219)
TARGETS = ("aspp", "enc_prob", "att", "gate", "fuse", "logit")
ARRAYS = (
    *("stem", "layer1", "layer2", "layer3", "layer4", "affinity"),
    *(f"{name}_{frame}" for name in TARGETS for frame in ("target", "search")),
    "enc_logit_target",
    *("pred_target_ref1", "pred_search_ref1", "pred_target_ref2", "pred_target_ref3"),
    *("pred_avg", "prob_resized", "batch2_pred_target", "batch2_pred_search"),
)
TRIMMED = {
    *("layer1", "layer2", "layer3", "affinity", "aspp_search", "att_search", "fuse_search"),
    *("enc_prob_search", "pred_target_ref2", "pred_target_ref3"),
    *("batch2_pred_target", "batch2_pred_search"),
}
KEPT = ("bn1", "backbone")  # modules whose results are looked at
# channels that the fixture stores
EVERY = {"stem": 8, "layer1": 32, "layer2": 32, "layer3": 64, "layer4": 64}
EVERY |= {"aspp_search": 4, "att_target": 4, "att_search": 4, "fuse_target": 4, "fuse_search": 4}


@pytest.fixture(scope="module", autouse=True)
def quickly():
    with quick_compilation():
        yield


@functools.cache
def case():
    return load_npz("cosnet", "case_a")


@functools.cache
def encoded():
    """Features of all frames of the case, and the backbone's maps of the first one."""
    model = released_model()

    @jax.jit
    def encode(variables, frames):
        return model.apply(
            variables,
            frames,
            method=model.encode,
            capture_intermediates=lambda m, call: call == "__call__" and m.name in KEPT,
            mutable=["intermediates"],
        )

    frames = jnp.asarray(case()["frames_bgr"][..., ::-1])
    features, inner = encode(released_variables(), frames)
    inner = inner["intermediates"]["encoder"]["backbone"]
    maps = [jax.nn.relu(inner["bn1"]["__call__"][0]), *inner["__call__"][0]]
    return features, [np.asarray(x[:1]) for x in maps]


def frame(t, stop=None):
    return jax.tree.map(lambda x: x[t : (stop or t + 1)], encoded()[0])


def segmented(references, **fields):
    """The prediction for the first frame after references were observed."""
    model = released_model(**fields)
    fewer = {"num_references": len(references), "valid": jnp.ones((1, 1), bool), "masks": None}

    @jax.jit
    def run(variables, first, others, target):
        memory = model.apply(variables, first, **fewer, method=model.start)
        for other in others:
            memory = model.apply(variables, memory, other, None, None, method=model.memorize)
        return model.apply(variables, memory, target, method=model.segment)

    first, *others = map(frame, references)
    return model, run(released_variables(), first, others, frame(0))


def foreground(references, size=SIZE, **fields):
    model, prediction = segmented(references, **fields)
    return np.asarray(model.probabilities(prediction, size)[0, 1])


@functools.cache
def pair():
    """Arrays of the first two frames as a pair, by the fixture's names, channels first."""
    model = released_model()

    def run(model, target, search):
        found = {}
        query, keys = model.affinity.query(target), model.affinity.keys(search[:, None])
        turned, back = model.affinity.turned(search, target)
        valid = jnp.ones((1, 1), bool)
        grid = target.shape[1:3]
        for side, arguments in {
            "target": (query, keys, search[:, None]),
            "search": (turned, back, target[:, None]),
        }.items():
            summary = summaries(*arguments, valid)
            found[f"att_{side}"] = summary.reshape(1, *grid, -1)
            weight = model.variables["params"]["gate"]["weight"]
            gate = jax.nn.sigmoid((found[f"att_{side}"] * weight).sum(axis=-1, keepdims=True))
            found[f"gate_{side}"] = gate
        flat = search.reshape(1, -1, search.shape[-1])
        found["affinity"] = jnp.einsum("bqc,bpc->bqp", query, flat, precision="highest")
        return found, model._pair(search, features_of(target))

    def features_of(embedding):
        return frame(0).replace(embedding=embedding)

    @jax.jit
    def both(variables, target, search):
        return model.apply(
            variables,
            target,
            search,
            method=run,
            capture_intermediates=lambda m, call: call == "__call__" and m.name == "norm",
            mutable=["intermediates"],
        )

    target, search = frame(0), frame(1)
    (found, prediction), inner = both(released_variables(), target.embedding, search.embedding)
    inner = inner["intermediates"]
    for side, head in {"target": "head", "search": "reference_head"}.items():
        found[f"fuse_{side}"] = jax.nn.relu(inner[head]["norm"]["__call__"][0])[:, 0]
    found["logit_target"] = prediction.logits[:, 0, ..., None]
    found["logit_search"] = prediction.pair.reference[..., None]
    for side, features in {"target": target, "search": search}.items():
        found[f"aspp_{side}"] = features.embedding
        found[f"enc_logit_{side}"] = features.logits[..., None]
        found[f"enc_prob_{side}"] = resized(features.logits)[..., None]
    found = {
        name: x if name == "affinity" else np.moveaxis(np.asarray(x), -1, 1)
        for name, x in found.items()
    }
    return found | {"pred_search_ref1": resized(prediction.pair.reference)[0]}


def resized(logits):
    """Probabilities [B, *SIZE]."""
    size = (len(logits), *SIZE)
    return np.asarray(jax.nn.sigmoid(jax.image.resize(logits, size, "linear")))


@functools.cache
def batch_of_two():
    model = released_model()

    @jax.jit
    def run(variables, reference, target):
        return model.apply(variables, reference, target, method=model._pair)

    prediction = run(released_variables(), frame(1, 3).embedding, frame(0, 2))
    return {
        "batch2_pred_target": resized(prediction.logits[:, 0]),
        "batch2_pred_search": resized(prediction.pair.reference),
    }


def ours(name):
    """Our array under the fixture's name and in its layout."""
    if name in ("stem", *(f"layer{i}" for i in (1, 2, 3, 4))):
        first, *layers = encoded()[1]
        pooled = np.asarray(
            jax.lax.reduce_window(
                first,
                -jnp.inf,
                jax.lax.max,
                (1, 3, 3, 1),
                (1, 2, 2, 1),
                ((0, 0), (1, 2), (1, 2), (0, 0)),
            )
        )
        return np.moveaxis(
            dict(
                zip(
                    ("stem", "layer1", "layer2", "layer3", "layer4"), (pooled, *layers), strict=True
                )
            )[name],
            -1,
            1,
        )
    if name.startswith("pred_target_ref"):
        return foreground((int(name[-1]),))
    if name == "pred_avg":
        return foreground((1, 2, 3))
    if name == "prob_resized":
        return foreground((1, 2, 3), RESIZED)
    if name.startswith("batch2"):
        return batch_of_two()[name]
    return pair()[name]


@pytest.mark.parametrize("name", ARRAYS)
def test_array_matches_the_release(name):
    skip_where_trimmed(name, case(), TRIMMED)
    expected, found = case()[name], np.asarray(ours(name))
    found = found[:, :: EVERY[name]] if name in EVERY else found
    atol = 1e-4 if "pred" in name or "prob" in name else 1e-4 * np.abs(expected).max()
    np.testing.assert_allclose(found, expected, rtol=0, atol=atol, strict=True)


def test_the_written_map_is_the_releases():
    skip_where_trimmed("mask_u8", case(), {"mask_u8"})
    found = (foreground((1, 2, 3), RESIZED) * 255).astype(np.uint8)
    assert np.abs(found.astype(int) - case()["mask_u8"]).max() <= 1  # near a whole number
    assert (found == case()["mask_u8"]).mean() > 0.999


VARIANTS = {
    "legacy/pred_target_ref1": ((1,), {"legacy_double_softmax": True}),
    "legacy/pred_avg": ((1, 2, 3), {"legacy_double_softmax": True}),
    "group/pred_target_refs12": ((1, 2), {"legacy_double_softmax": True, "fusion": "joint"}),
    "group_plain/pred": ((1, 2), {"fusion": "joint"}),
    "paper_fusion/pred": ((1, 2, 3), {"fusion": "attention"}),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_variant_matches_the_release_or_its_reconstruction(name):
    references, fields = VARIANTS[name]
    expected = load_npz("cosnet", "variants")[name]
    np.testing.assert_allclose(foreground(references, **fields), expected, rtol=0, atol=1e-4)


def test_what_the_double_softmax_does_not_touch_is_the_same():
    """The map of the reference in a pair, and the encoder's own, which no reference changes."""
    stored, model = load_npz("cosnet", "variants"), released_model(legacy_double_softmax=True)
    run = jax.jit(lambda variables, *pair: model.apply(variables, *pair, method=model._pair))
    prediction = run(released_variables(), frame(1).embedding, frame(0))
    found = {"target": prediction.logits[:, 0], "search": prediction.pair.reference}
    for side, logits in found.items():
        expected = stored[f"legacy/pred_{side}_ref1"]
        np.testing.assert_allclose(resized(logits)[0], expected, rtol=0, atol=1e-4)
    skip_where_trimmed("group/enc_prob_target", stored, {"group/enc_prob_target"})
    alone = foreground((1,), num_references=0)
    np.testing.assert_allclose(alone, stored["group/enc_prob_target"], rtol=0, atol=1e-4)


def test_frames_are_prepared_as_in_the_release():
    stored = load_npz("cosnet", "ops")
    frames = {"prep": stored["prep_in"], "train_prep": stored["train_prep_in"]}
    # scipy.misc.imresize rounds halves up
    frames["train_prep"] = np.floor(stretched_contrast(frames["train_prep"]) + 0.5).astype(np.uint8)
    for name, bgr in frames.items():
        found = resize_pillow(np.ascontiguousarray(bgr[..., ::-1]), (73, 73))
        np.testing.assert_array_equal(found[..., ::-1], stored[f"{name}_resized_u8"])
        skip_where_trimmed(f"{name}_out", stored, {"prep_out"})
        expected = np.moveaxis(stored[f"{name}_out"], 0, -1)
        np.testing.assert_allclose(caffe_normalise(found), expected, rtol=0, atol=1e-4)


# ---- training ----

GRADIENTS = {  # official name -> ours
    "linear_e.weight": "affinity/weight",
    "gate.weight": "gate/weight",
    "conv1.weight": "head/kernel",
    "main_classifier1.weight": "head/logits/kernel",
    "encoder.layer5.conv2d_1.weight": "encoder/aspp1/conv/kernel",
    "encoder.layer4.2.conv2.weight": "encoder/backbone/layer4_2/conv2/conv/kernel",
    "encoder.conv1.weight": "encoder/backbone/conv1/kernel",
}


@functools.cache
def training_step():
    """Predictions, loss of the pairs, loss of the images, gradients, statistics, by our paths.

    The release encodes the target first; a clip of ours has its reference first, and running
    statistics depend on the order.
    """
    stored, model = load_npz("cosnet", "train_step"), released_model(pairs=True)
    frames = jnp.asarray(stored["frames_bgr"][..., ::-1])
    labels = jnp.asarray(stored["masks"] > 0).astype(jnp.uint8)
    batch = {"labels": jnp.stack([labels[2:], labels[:2]], axis=1)}
    variables = released_variables()
    flat = traverse_util.flatten_dict(variables["params"], sep="/")

    def run(model, target, search):
        target, search = model.encode(target, True), model.encode(search, True)
        return model._pair(search.embedding, target, True)

    def losses(chosen, statistics, frames):
        params = traverse_util.unflatten_dict({**flat, **chosen}, sep="/")
        used = {"params": params, "batch_stats": statistics}
        prediction, updated = model.apply(
            used, frames[:2], frames[2:], method=run, mutable=["batch_stats"]
        )
        predictions = jax.tree.map(lambda x: x[None], prediction)
        settings = dict(image_every=3, image_weight=1.0)
        of_pairs, of_images = (
            model.losses(predictions, batch, jnp.int32(step), **settings).mean() for step in (1, 3)
        )
        return of_pairs, (prediction, of_images, updated["batch_stats"])

    # of the stored gradients alone: the others would take most of the time to compile
    chosen = {path: flat[path] for path in GRADIENTS.values()}
    step = jax.jit(jax.value_and_grad(losses, has_aux=True))
    (of_pairs, rest), gradients = step(chosen, variables["batch_stats"], frames)
    prediction, of_images, statistics = rest
    return prediction, of_pairs, of_images, gradients, statistics


def test_training_predictions_match_the_release():
    prediction, stored = training_step()[0], load_npz("cosnet", "train_step")
    found = (prediction.logits[:, 0], prediction.pair.reference, prediction.pair.encoder)
    for i, logits in enumerate(found, start=1):
        maps = jax.nn.sigmoid(jax.image.resize(logits, (2, 65, 65), "linear"))
        np.testing.assert_allclose(maps, stored[f"pred{i}"], rtol=0, atol=1e-3)


def test_training_losses_match_the_release():
    _, of_pairs, of_images, *_ = training_step()
    stored = load_npz("cosnet", "train_step")
    np.testing.assert_allclose(of_pairs, stored["video_loss"], rtol=1e-4)
    # the stored one has the release's factor of 0.1
    np.testing.assert_allclose(of_images * 0.1, stored["img_loss_same_forward"], rtol=1e-4)


@pytest.mark.parametrize("name", GRADIENTS)
def test_training_gradient_matches_the_release(name):
    stored, gradient = load_npz("cosnet", "train_step"), training_step()[3][GRADIENTS[name]]
    found = np.linalg.norm(gradient)
    # the norm of the pooled branch sees two values of each channel
    np.testing.assert_allclose(found, stored[f"gradnorm/{name}"], rtol=1e-2)
    if name == "gate.weight":
        expected = stored[f"grad/{name}"].ravel()
    elif name == "linear_e.weight":
        expected, gradient = stored[f"grad/{name}"], np.transpose(gradient)
        gradient = gradient[tuple(slice(None, None, 256 // n) for n in expected.shape)]
    else:
        return
    atol = 1e-2 * np.abs(expected).max()
    np.testing.assert_allclose(gradient, expected, rtol=0, atol=atol)


def test_live_statistics_match_the_release():
    stored, statistics = load_npz("cosnet", "train_step"), training_step()[4]
    found = {
        "bn1_running_mean_after": statistics["head"]["norm"]["mean"],
        "enc_bn1_running_var_after": statistics["encoder"]["backbone"]["bn1"]["var"],
    }
    for name, x in found.items():
        expected = stored[name]
        np.testing.assert_allclose(x, expected, rtol=0, atol=1e-3 * np.abs(expected).max())
