import hashlib

import numpy as np
import pytest

from vos_jax.data import synthetic
from vos_jax.data.synthetic import synthetic_videos


def test_frames_do_not_depend_on_order_or_clip_length():
    video = synthetic_videos("train", 2)[1]
    longer = synthetic_videos("train", 5, num_frames=30)[1]
    late = longer.frame(7)
    synthetic._scene.cache_clear()
    synthetic._drawn.cache_clear()
    assert (video.clip().frames[7] == late).all()
    assert (video.mask(7) == longer.mask(7)).all()


def test_train_and_test_clips_differ():
    train, test = (synthetic_videos(split, 1)[0].frame(0) for split in ("train", "test"))
    assert (train != test).mean() > 0.9


def test_every_object_is_visible_in_frame_0():
    for split in ("train", "test"):
        for video in synthetic_videos(split, 20):
            counts = np.bincount(video.mask(0).ravel(), minlength=4)
            assert video.ids.tolist() == list(range(1, len(video.ids) + 1))
            assert (counts[video.ids] >= synthetic.MIN_VISIBLE).all()
            assert 1 <= len(video.ids) <= synthetic.MAX_OBJECTS


def test_clips_have_the_declared_form():
    clip = synthetic_videos("test", 1)[0].clip()
    assert clip.frames.shape == (12, 96, 160, 3) and clip.frames.dtype == np.uint8
    assert clip.masks.max() <= 3 and clip.dataset == "synthetic-v1"
    assert clip.given[0].all() and not clip.given[1:].any()
    assert clip.scored[1:-1].all() and not clip.scored[[0, -1]].any()


def test_the_frozen_masks_have_not_changed():
    # Changing any parameter or the drawing itself makes another data set: see synthetic.py.
    masks = np.concatenate([video.clip([0, 5, 11]).masks for video in synthetic_videos("test", 4)])
    digest = hashlib.sha256(masks.tobytes()).hexdigest()[:16]
    assert digest == "501d6c64fa797039"


def test_objects_move_so_that_the_first_mask_does_not_do():
    overlaps = []
    for video in synthetic_videos("test", 20):
        first, later = video.mask(0), video.mask(6)
        for k in video.ids:
            union = ((first == k) | (later == k)).sum()
            overlaps.append(((first == k) & (later == k)).sum() / union)
    assert 0.15 < np.mean(overlaps) < 0.5


def test_a_frame_and_its_mask_are_drawn_together_and_once(monkeypatch):
    video = synthetic_videos("test", 4)[3]
    assert len(video.ids) > 0  # the scene is there
    synthetic._drawn.cache_clear()
    drawn, draw = [], synthetic._draw
    monkeypatch.setattr(synthetic, "_draw", lambda scene, t: drawn.append(t) or draw(scene, t))
    video.clip()
    assert sorted(drawn) == list(range(12))


def test_bad_requests_are_refused():
    with pytest.raises(ValueError, match="no split 'val'"):
        synthetic_videos("val")
    with pytest.raises(ValueError, match="at least 3 frames"):
        synthetic_videos("test", num_frames=2)
