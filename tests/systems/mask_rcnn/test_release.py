"""Mask R-CNN against torchvision: every stored array of an image, and both namings of its file."""

import functools
import re

import jax
import numpy as np
import pytest

from tests.fixtures import golden_parameters, load_npz, load_spec, skip_where_trimmed
from tests.tiny import quick_compilation
from vos_jax.systems.mask_rcnn.model import MaskRCNN
from vos_jax.systems.mask_rcnn.official import from_official

CLOSE = 1e-4  # of an array's largest magnitude
MAPS = ("C2", "C3", "C4", "C5", "P2", "P3", "P4", "P5", "P6")
SAID = tuple(f"rpn_{kind}{level}" for kind in ("cls", "reg") for level in range(2, 7))
KEPT = {"C5", "P4", "P5", "P6", "rpn_cls2", "rpn_cls6", "rpn_reg6"}


@functools.cache
def case():
    return load_npz("maskrcnn_torchvision", "case_a")


def released_model():
    """As the fixture was made: normalisations are ordinary ones, limits small."""
    return MaskRCNN(
        classes=20,
        norm_epsilon=1e-5,
        image_scale=(256, 128),
        pre_nms=300,
        post_nms=150,
        max_detections=12,
    )


@functools.cache
def shapes():
    model = released_model()
    inputs = jax.tree.map(lambda x: x[None], model.preprocess(case()["image0"]))
    return jax.eval_shape(model.init, jax.random.key(0), inputs)


def official_arrays():
    return golden_parameters(load_spec("maskrcnn_torchvision"))


@functools.cache
def found():
    """Backbone maps, features, proposals, what is said of them, detections, masks."""
    model = released_model()
    variables = from_official(official_arrays(), shapes()).variables
    inputs = jax.tree.map(lambda x: x[None], model.preprocess(case()["image0"]))

    def walk(model, inputs):
        features = model.encode(inputs)
        proposals, _, valid = model.propose(features)
        pooled = model.pool(features, proposals, 7)
        detections = model.detect(features)
        masks = model.masks(detections, case()["image0"].shape[:2])
        maps = (*model.backbone(inputs.frame), *features.maps)
        return maps, features, proposals, valid, pooled, model.classify(pooled), detections, masks

    with quick_compilation():
        return jax.jit(functools.partial(model.apply, method=walk))(variables, inputs)


def compare(name, value):
    skip_where_trimmed(name, case(), {"net_input", *MAPS, *SAID} - KEPT)
    expected = case()[name]
    bar = CLOSE * np.abs(expected).max()
    np.testing.assert_allclose(value, expected, rtol=0, atol=bar, err_msg=name)


def channels_first(x, expected):
    x = np.moveaxis(np.asarray(x), -1, 1)
    return x[:, :: x.shape[1] // expected.shape[1]]


def test_the_network_sees_what_torchvisions_does():
    inputs = released_model().preprocess(case()["image0"])
    assert [inputs.size.tolist()] == case()["resized_hw"].tolist()
    assert list(inputs.frame.shape[:2]) == case()["padded_hw"].tolist()
    compare("net_input", inputs.frame[None, ::2, ::2].transpose(0, 3, 1, 2))


@pytest.mark.parametrize("name", MAPS)
def test_maps_match_torchvision(name):
    skip_where_trimmed(name, case(), set(MAPS) - KEPT)
    compare(name, channels_first(found()[0][MAPS.index(name)], case()[name]))


@pytest.mark.parametrize("name", SAID)
def test_what_is_said_of_anchors_matches_torchvision(name):
    _, features, *_ = found()
    cells = [x.shape[1] * x.shape[2] * 3 for x in features.maps]
    level = int(name[-1]) - 2
    rows = slice(sum(cells[:level]), sum(cells[: level + 1]))
    grid = features.maps[level].shape[1:3]
    value = features.deltas if "reg" in name else features.logits
    value = np.asarray(value)[:, rows].reshape(1, *grid, -1)
    compare(name, np.moveaxis(value, -1, 1))


def test_proposals_and_what_is_said_of_them_match_torchvision():
    _, _, proposals, valid, pooled, (logits, deltas), _, _ = found()
    assert valid.all()
    compare("proposals0", proposals[0])
    compare("box_pool", np.moveaxis(pooled[0, :6, ..., ::16], -1, 1))
    compare("cls_logits", logits[0])
    compare("box_deltas", deltas[0].reshape(150, -1)[:, :24])


def test_detections_and_masks_match_torchvision():
    detections, masks = found()[-2:]
    assert detections.valid.all()
    compare("boxes0", detections.boxes[0])
    compare("scores0", detections.scores[0])
    np.testing.assert_array_equal(detections.classes[0] + 1, case()["labels0"])
    compare("mask_probs28_0", jax.nn.sigmoid(detections.masks[0]))
    height, width = case()["image0"].shape[:2]
    packed = np.unpackbits(case()["masks_bin_packed0"], axis=1)[:, : height * width]
    np.testing.assert_array_equal(masks[0], packed.reshape(-1, height, width))


def test_both_namings_of_the_file_are_read():
    def old_name(name):
        name = re.sub(r"((?:inner|layer)_blocks\.\d|rpn\.head\.conv\.0)\.0\.", r"\1.", name)
        name = name.replace("rpn.head.conv.0.", "rpn.head.conv.")
        mask = re.match(r"(roi_heads\.mask_head\.)(\d)\.0\.(.*)", name)
        return f"{mask[1]}mask_fcn{int(mask[2]) + 1}.{mask[3]}" if mask else name

    arrays = official_arrays()
    old = {old_name(name): array for name, array in arrays.items() if "num_batches" not in name}
    assert "backbone.fpn.inner_blocks.0.weight" in old and "rpn.head.conv.weight" in old
    assert "roi_heads.mask_head.mask_fcn4.bias" in old
    ours = [from_official(x, shapes()) for x in (arrays, old)]
    assert not ours[0].unused
    counters = sum("num_batches" in name for name in arrays)
    assert len(jax.tree.leaves(ours[0].variables)) == len(arrays) - counters
    jax.tree.map(np.testing.assert_array_equal, *(x.variables for x in ours))


def test_what_does_not_fit_is_named():
    arrays = official_arrays() | {"roi_heads.keypoint.weight": np.zeros(3, np.float32)}
    del arrays["rpn.head.cls_logits.bias"]
    arrays["roi_heads.box_predictor.cls_score.bias"] = np.zeros(91, np.float32)
    message = r"1 missing, 1 unexpected, 1 mis-shaped(?s:.*)cls_logits.bias(?s:.*)keypoint"
    with pytest.raises(ValueError, match=message):
        from_official(arrays, shapes())


def test_a_fresh_model_names_an_unknown_geometry():
    model = MaskRCNN(geometry="polar")
    with pytest.raises(ValueError, match="geometry: expected one of .*found 'polar'"):
        model.preprocess(np.zeros((64, 64, 3), np.uint8))
