"""MaskTrack R-CNN against the released code: a clip, frame by frame, and its results."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.fixtures import fixture, load_npz, load_spec, skip_where_trimmed
from tests.systems.mask_rcnn.tiny import no_features
from tests.systems.masktrack_rcnn.cases import CLOSE, released_model, released_variables
from tests.tiny import quick_compilation
from vos_jax.systems.masktrack_rcnn.association import comprehensive_scores

FRAMES = range(5)
MAPS = ("C2", "C3", "C4", "C5", "P2", "P3", "P4", "P5", "P6")
TRIMMED = {"net_input", "rpn_cls2", "C2", "C3", "C4", "P2", "P3"}
TRIMMED |= {f"t{t}_{name}" for t in (1, 2, 3) for name in ("proposals", "mask_logits")}


@functools.cache
def case():
    return load_npz("masktrack", "case_a")


def walk(model, inputs, memory):
    """One frame, with everything on the way."""
    features = model.encode(inputs)
    proposals, logits, _ = model.propose(features)
    said = model.classify(model.pool(features, proposals, 7))
    detections = model.detect(features)
    v = comprehensive_scores(
        memory, detections, model.match_coeff, model.use_embedding, model.convention
    )
    memory, linked = model.link(memory, features, detections, jnp.ones(1, bool))
    return memory, {
        "maps": (*model.backbone(inputs.frame), *features.maps),
        "proposals": jnp.concatenate([proposals[0], jax.nn.sigmoid(logits[0])[:, None]], axis=1),
        "said": jax.tree.map(lambda x: x[0], said),
        "found": jax.tree.map(lambda x: x[0], detections),
        "v": v[0],
        "ids": linked.ids[0],
        "masks": model.masks(detections, case()["frames_rgb"].shape[1:3])[0],
    }


@functools.cache
def walked():
    """All frames; one compilation."""
    model, seen = released_model(), []
    variables, memory = (
        released_variables(load_spec("masktrack")["seed"]),
        model.start(no_features(1)),
    )
    step = jax.jit(functools.partial(model.apply, method=walk))
    with quick_compilation():
        for frame in case()["frames_rgb"]:
            inputs = jax.tree.map(lambda x: x[None], model.preprocess(frame))
            memory, found = step(variables, inputs, memory)
            seen.append(jax.tree.map(np.asarray, found))
    assert step._cache_size() == 1
    return seen


def compare(name, value):
    skip_where_trimmed(name, case(), TRIMMED)
    expected = case()[name]
    bar = CLOSE * np.abs(expected).max()
    np.testing.assert_allclose(value, expected, rtol=0, atol=bar, err_msg=name)


def test_the_network_sees_what_the_releases_does():
    inputs = released_model().preprocess(case()["frames_rgb"][0])
    assert inputs.scale.tolist() == [case()["scale_factor"]] * 2
    compare("net_input", inputs.frame[::2, ::2].transpose(2, 0, 1))


@pytest.mark.parametrize("name", MAPS)
def test_maps_match_the_release(name):
    skip_where_trimmed(name, case(), TRIMMED)
    value = np.moveaxis(walked()[0]["maps"][MAPS.index(name)][0], -1, 0)
    compare(name, value[:: len(value) // len(case()[name])])


def test_what_is_said_of_proposals_matches_the_release():
    logits, deltas = walked()[0]["said"]
    compare("cls_score", logits)
    compare("bbox_pred", deltas.reshape(200, -1)[:, :16])


@pytest.mark.parametrize("t", FRAMES)
def test_proposals_match_the_release(t):
    compare(f"t{t}_proposals", walked()[t]["proposals"])


@pytest.mark.parametrize("t", FRAMES)
def test_detections_match_the_release(t):
    found = walked()[t]["found"]
    assert found.valid.all()
    compare(f"t{t}_det_bboxes", np.column_stack([found.boxes, found.scores]))
    np.testing.assert_array_equal(found.classes, case()[f"t{t}_det_labels"])
    compare(f"t{t}_track_embed", found.embeddings[:, ::8])


@pytest.mark.parametrize("t", FRAMES)
def test_masks_inside_of_boxes_match_the_release(t):
    compare(f"t{t}_mask_logits", walked()[t]["found"].masks)


@pytest.mark.parametrize("t", FRAMES)
def test_identities_match_the_release(t):
    np.testing.assert_array_equal(walked()[t]["ids"], case()[f"t{t}_det_obj_ids"])
    if t > 0:
        columns = case()[f"t{t}_comp_scores"].shape[1]
        compare(f"t{t}_comp_scores", walked()[t]["v"][:, :columns])


def kept(t):
    """Identity -> detection of a frame; of two with one identity the later one counts."""
    return {int(k): i for i, k in enumerate(walked()[t]["ids"]) if k >= 0}


@pytest.mark.parametrize("t", FRAMES)
def test_masks_of_the_frame_match_the_release_in_every_pixel(t):
    packed = np.unpackbits(case()[f"t{t}_masks_packed"], axis=1)
    masks, ids = walked()[t]["masks"], walked()[t]["ids"]
    packed = packed[:, : masks[0].size].reshape(-1, *masks.shape[1:])
    for ident, expected in zip(ids, packed, strict=True):
        if ident >= 0:
            np.testing.assert_array_equal(masks[kept(t)[int(ident)]], expected)


def test_results_of_the_video_follow():
    rle = pytest.importorskip("pycocotools.mask")
    expected = json.loads((fixture("masktrack") / "case_a_results.json").read_text())
    for ident, track in enumerate(expected):
        frames = [t for t in FRAMES if ident in kept(t)]
        own = [(walked()[t], kept(t)[ident]) for t in frames]
        score = np.mean([found["found"].scores[i] for found, i in own])
        np.testing.assert_allclose(score, track["score"], atol=CLOSE)
        classes = np.bincount([found["found"].classes[i] for found, i in own])
        assert classes.argmax() + 1 == track["category_id"]
        for t, segmentation in enumerate(track["segmentations"]):
            assert (segmentation is None) == (t not in frames)
            if segmentation is not None:
                mask = walked()[t]["masks"][kept(t)[ident]]
                np.testing.assert_array_equal(mask, rle.decode(segmentation))
    assert max(max(kept(t)) for t in FRAMES) + 1 == len(expected)
