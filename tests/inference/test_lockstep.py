import json

import pytest

from tests.eight_devices import run_on_eight_devices
from tests.squares import moving_squares
from tests.tiny import tiny_system
from vos_jax.inference.lockstep import LockstepSegmenter, local_mesh


def test_videos_in_lockstep_have_the_labels_of_each_alone():
    """Of unequal length, with an object that comes later; labels may flip where two of them tie.

    `make soak` looks at every system.
    """
    found = json.loads(run_on_eight_devices("tests.inference.lockstep_devices"))
    assert {"stm", "cfbi"} <= set(found)
    assert max(found.values()) < 0.005, found


def test_a_first_mask_without_an_object_is_refused():
    model, variables = tiny_system("feelvos")
    segmenter = LockstepSegmenter(model, variables, [[1, 2]], 0, local_mesh())
    video = moving_squares("a", enlarged=2)
    with pytest.raises(ValueError, match="the first mask holds no object"):
        segmenter.dispatch([video.frame(0)], [video.mask(0) * 0])


def test_frames_of_another_size_are_refused():
    model, variables = tiny_system("feelvos")
    segmenter = LockstepSegmenter(model, variables, [[1, 2], [1, 2]], 0, local_mesh())
    videos = [moving_squares("a"), moving_squares("b", enlarged=2)]
    with pytest.raises(ValueError, match="expected frames of 24x32 .*found 48x64"):
        segmenter.dispatch([v.frame(0) for v in videos], [v.mask(0) for v in videos])
