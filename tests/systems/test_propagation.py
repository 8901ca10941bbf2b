"""Label propagation with untrained features."""

import jax
import numpy as np
import pytest

from vos_jax.inference.streaming import VideoSegmenter
from vos_jax.systems.build import init_variables
from vos_jax.systems.propagation import Propagation

FIELDS = {"backbone": "mobilenet_v2", "output_stride": 8, "width": 0.1}


@pytest.fixture(scope="module")
def propagation():
    model = Propagation(**FIELDS, window=2)
    return model, init_variables(model, jax.random.key(0))


def test_it_has_the_variables_of_a_backbone_and_no_others(propagation, tiny_feelvos):
    _, variables = propagation
    assert list(variables["params"]) == ["trunk"]
    backbone = tiny_feelvos[1]["params"]["deeplab"]["backbone"]
    assert jax.tree.structure(variables["params"]["trunk"]) == jax.tree.structure(backbone)


@pytest.mark.parametrize("field", ["dropout", "dtype", "features", "embedding_dim", "samples"])
def test_fields_that_it_does_not_use_are_refused(field):
    with pytest.raises(TypeError, match=f"unexpected keyword argument .{field}"):
        Propagation(**FIELDS, **{field: 1})


def test_an_unchanged_frame_gets_the_labels_of_the_first_mask(propagation, clip):
    frames, masks = clip
    segmenter = VideoSegmenter(*propagation)
    segmenter.step(frames[0], masks[0])
    labels = segmenter.step(frames[0])
    # exact at the sampled pixels, blocky between them
    assert (labels == masks[0]).mean() > 0.85
    assert set(np.unique(labels)) == {0, 1, 2}


def test_an_object_that_appears_later_keeps_its_label_and_the_others_theirs(propagation):
    """Two large squares on noise, of which the second comes with the second frame."""
    rng = np.random.default_rng(0)
    before = rng.integers(0, 255, (96, 128, 3)).astype(np.uint8)
    masks = np.zeros((96, 128), np.uint8)
    masks[16:64, 8:56], masks[32:80, 72:120] = 1, 2
    before[masks == 1] = (250, 30, 30)
    after = np.where((masks == 2)[..., None], np.uint8([20, 40, 240]), before)
    segmenter = VideoSegmenter(*propagation)
    segmenter.step(before, np.where(masks == 1, 1, 0))
    segmenter.step(after, np.where(masks == 2, 2, 0))
    labels = segmenter.step(after)
    assert all((labels[masks == i] == i).mean() > 0.7 for i in (1, 2))
    assert (labels == masks).mean() > 0.85


def test_small_frames_and_scaled_ones_give_labels_at_the_size_of_the_frame(propagation, clip):
    model, variables = propagation
    frames, masks = clip
    for fields in ({"short_side": 24}, {"scale": 1.5}):
        changed = model.clone(**fields)
        assert changed.preprocess(frames[0]).shape != frames[0].shape
        segmenter = VideoSegmenter(changed, variables)
        segmenter.step(frames[0], masks[0])
        labels = segmenter.step(frames[0])
        assert labels.shape == masks[0].shape and (labels == masks[0]).mean() > 0.75
