"""Foreground and background: against the released code of CFBI, and invariants."""

import jax.numpy as jnp
import numpy as np
import pytest

from tests.fixtures import load_npz, skip_where_trimmed
from vos_jax.ops.collaborative import (
    LabelSums,
    atrous_labels,
    background_distances,
    calibrate_background,
)
from vos_jax.ops.matching import global_matching, normalise_distance

GOLDEN = load_npz("cfbi", "ops")
LABELS = 4
ALL = jnp.ones((1, LABELS), bool)

# golden array -> reference labels, factor, smallest number of pixels that is thinned out
GLOBAL = {
    "global_eval_atrous1": (("lab_ref1",), 1, 0),
    "global_eval_atrous2": (("lab_ref1",), 2, 0),
    "global_eval_atrous3": (("lab_ref1",), 3, 0),
    "global_eval_atrous4": (("lab_ref1",), 4, 0),
    "global_eval_2refs_atrous1": (("lab_ref1", "lab_ref2"), 1, 0),
    "global_eval_2refs_atrous2": (("lab_ref1", "lab_ref2"), 2, 0),
    "global_eval_absent": (("lab_ref2",), 1, 0),
    "global_eval_hole": (("lab_hole",), 1, 0),
    "global_eval_nolabel": ((None,), 1, 0),
    "global_eval_minpix2_atrous2": (("lab_ref1",), 2, 2),
    "global_eval_minpix10_atrous2": (("lab_ref1",), 2, 10),
    "global_eval_f16": (("lab_ref1",), 1, 0),
    "global_train_atrous1": (("lab_ref1",), 1, 0),
    "global_train_atrous2": (("lab_ref1",), 2, 0),
}
TRIMMED = {
    "global_eval_atrous4",
    "global_eval_2refs_atrous1",
    "global_eval_minpix2_atrous2",
    "global_train_atrous1",
}


def _labels(name):
    labels = np.full((1, 21, 27), 255) if name is None else GOLDEN[f"in_{name}"][None]
    return jnp.asarray(labels, jnp.int32)


def _embedding(name):
    return jnp.asarray(GOLDEN[f"in_{name}"])[None]


@pytest.mark.parametrize("name", GLOBAL)
def test_atrous_global_maps_equal_the_released_code(name):
    skip_where_trimmed(name, GOLDEN, TRIMMED)
    references, rate, min_pixels = GLOBAL[name]
    pixels, labels = [], []
    for reference in references:
        embedding = _embedding("ref2" if reference == "lab_ref2" else "ref1")
        pixels.append(embedding.reshape(1, -1, embedding.shape[-1]))
        labels.append(atrous_labels(_labels(reference), LABELS, rate, min_pixels).reshape(1, -1))
    dtype = jnp.float16 if name.endswith("f16") else jnp.float32
    query, pixels = _embedding("cur").astype(dtype), jnp.concatenate(pixels, 1).astype(dtype)
    distances = global_matching(query, pixels, jnp.concatenate(labels, 1), LABELS)[0]
    maps = jnp.moveaxis(normalise_distance(distances, GOLDEN["in_dis_bias"]), -1, 0)
    # In half precision another order of summation may round a step the other way, here in 3 of
    # 1000 values; without the release's rounding of every step 3 of 100 values would be equal.
    atol = 1.5e-2 if dtype == jnp.float16 else 1e-5
    np.testing.assert_allclose(maps, GOLDEN[name], atol=atol)
    assert (np.abs(maps - GOLDEN[name]) < 1e-5).mean() > 0.95


@pytest.mark.parametrize(
    ("name", "rate", "min_pixels"),
    [("minpix2", 2, 2), ("train_atrous1", 1, 0), ("train_atrous2", 2, 0)],
)
def test_labels_left_by_atrous_matching_equal_the_released_code(name, rate, min_pixels):
    left = atrous_labels(_labels("lab_ref1"), LABELS, rate, min_pixels)[0]
    expected = GOLDEN[f"inplace_label_after_{name}"]
    np.testing.assert_array_equal(left == np.arange(LABELS)[:, None, None], expected)


def test_labels_outside_the_range_are_never_left():
    labels = jnp.asarray([[[0, 7], [255, -1]]])
    np.testing.assert_array_equal(atrous_labels(labels, 2, 1)[0], [[0, -1], [-1, -1]])
    np.testing.assert_array_equal(atrous_labels(labels, 2, 2, 5)[0], [[0, -1], [-1, -1]])


@pytest.mark.parametrize(
    ("background", "of"), [("bg_global", "global_eval_atrous1"), ("bg_local", "local_cfbi")]
)
def test_background_of_each_label_equals_the_released_code(background, of):
    maps = jnp.asarray(GOLDEN[of])[None]
    np.testing.assert_array_equal(background_distances(maps, ALL)[0], GOLDEN[background])


def test_label_that_is_alone_is_its_own_background():
    maps = jnp.asarray(GOLDEN["global_eval_atrous1"])[None].at[:, 1:].set(1.0)
    found = background_distances(maps, jnp.asarray([[True, False, False, False]]))
    np.testing.assert_array_equal(found[0, 0], GOLDEN["bg_single"][0])


@pytest.mark.parametrize(
    ("name", "references"),
    [("att_eval_1ref", ("ref1",)), ("att_train", ("ref1",)), ("att_eval_2ref", ("ref1", "ref2"))],
)
def test_mean_embeddings_inside_and_outside_equal_the_released_code(name, references):
    sums = [LabelSums.of(_embedding(k), _labels(f"lab_{k}"), LABELS) for k in references]
    total = sums[0]
    for more in sums[1:]:
        total = LabelSums(
            total.sums + more.sums,
            total.counts + more.counts,
            total.total + more.total,
            total.pixels + more.pixels,
        )
    previous = LabelSums.of(_embedding("prev"), _labels("lab_prev"), LABELS)
    vector = jnp.concatenate([*total.means(), *previous.means()], axis=-1)[0]
    np.testing.assert_allclose(vector, GOLDEN[name], atol=2e-6)


@pytest.mark.parametrize("labels", [1, 2, 4])
def test_background_logit_equals_the_released_code_whatever_is_padded(labels):
    foreground, background = (GOLDEN[f"in_aug_{k}{labels}"][None] for k in ("fg", "bg"))
    present = jnp.arange(6)[None] < labels
    pad = ((0, 0), (0, 6 - labels), (0, 0), (0, 0))
    filled = (jnp.pad(x, pad, constant_values=-9.0) for x in (foreground, background))
    found = calibrate_background(*filled, present)[0, :labels]
    np.testing.assert_allclose(found, GOLDEN[f"aug_out{labels}"], atol=1e-6)
