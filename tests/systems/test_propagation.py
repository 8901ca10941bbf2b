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


def test_an_unchanged_frame_gets_the_labels_of_the_first_mask(propagation, clip):
    frames, masks = clip
    segmenter = VideoSegmenter(*propagation)
    segmenter.step(frames[0], masks[0])
    labels = segmenter.step(frames[0])
    # exact at the sampled pixels, blocky between them
    assert (labels == masks[0]).mean() > 0.85
    assert set(np.unique(labels)) == {0, 1, 2}
