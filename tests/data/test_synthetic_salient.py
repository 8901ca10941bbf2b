import hashlib

import numpy as np
import pytest

from vos_jax.data import synthetic_salient
from vos_jax.data.synthetic_salient import salient_videos


def test_frames_do_not_depend_on_order_or_clip_length():
    video = salient_videos("train", 2)[1]
    longer = salient_videos("train", 5, num_frames=30)[1]
    late = longer.frame(7)
    synthetic_salient._scene.cache_clear()
    synthetic_salient._drawn.cache_clear()
    assert (video.clip().frames[7] == late).all()
    assert (video.mask(7) == longer.mask(7)).all()


def test_train_and_test_clips_differ():
    train, test = (salient_videos(split, 1)[0].frame(0) for split in ("train", "test"))
    assert (train != test).mean() > 0.9


def test_clips_have_the_declared_form():
    clip = salient_videos("test", 1)[0].clip()
    assert clip.frames.shape == (12, 96, 160, 3) and clip.frames.dtype == np.uint8
    assert clip.ids.tolist() == [1] and clip.dataset == "synthetic-salient-v1"
    assert clip.scored[1:-1].all() and not clip.scored[[0, -1]].any()


def test_the_object_moves_and_is_in_every_frame_while_others_come_and_go():
    for index, video in enumerate(salient_videos("test", 20)):
        masks = video.clip().masks
        assert masks[0].any() and (masks > 0).any(axis=(1, 2)).mean() > 0.9
        assert (masks[0] != masks[8]).any()
        _, visits = synthetic_salient._scene("test", index)
        assert 2 <= len(visits) <= 3
        for visit in visits:
            there = [visit(t) for t in range(60)]
            assert 0.3 < np.mean(there) < 0.7


def test_the_frozen_clips_have_not_changed():
    # Changing any parameter or the drawing itself makes another data set: see the module. Masks,
    # and frames to within what float64 may round another way.
    clips = [video.clip([0, 5, 11]) for video in salient_videos("test", 4)]
    masks = np.concatenate([clip.masks for clip in clips])
    assert hashlib.sha256(masks.tobytes()).hexdigest()[:16] == "11be338d2737fc0e"
    means = [clip.frames.astype(np.float64).mean() for clip in clips]
    np.testing.assert_allclose(means, [129.125, 117.736, 116.452, 134.149], atol=0.01)


def test_bad_requests_are_refused():
    with pytest.raises(ValueError, match="no split 'val'"):
        salient_videos("val")
    with pytest.raises(ValueError, match="at least 3 frames"):
        salient_videos("test", num_frames=2)
