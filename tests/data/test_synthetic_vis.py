"""synthetic-vis-v1 is frozen, and each regime is hard in the way that it says."""

import hashlib

import numpy as np
import pytest

from vos_jax.data import synthetic_vis
from vos_jax.data.synthetic_vis import CLASSES, REGIMES, regime_of, render, synthetic_vis_videos


@pytest.fixture(scope="module")
def regimes():
    """The clips of the test split by regime, without pixels."""
    videos = synthetic_vis_videos("test")
    return {r: [video for video in videos if regime_of(video) == r] for r in REGIMES}


def gaps(video):
    """Longest time that each instance was gone between two appearances."""
    times = [np.flatnonzero(video.valid[:, n]) for n in range(len(video.ids))]
    return [int(np.diff(t).max(initial=1)) - 1 for t in times]


def steps(video):
    """How far the centre of a box moves in a frame, in its widths."""
    boxes = np.stack([video.boxes(t) for t in range(len(video))])
    centres, widths = (boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2] - boxes[..., 0]
    both = video.valid[1:] & video.valid[:-1]
    moved = np.linalg.norm(np.diff(centres, axis=0), axis=-1)
    return moved[both] / widths[:-1][both]


def test_the_frozen_pixels_have_not_changed():
    # Changing any parameter or the drawing itself makes another data set: see synthetic_vis.py.
    drawn = [render("test", index, t) for index in range(8) for t in (0, 5, 11)]
    labels = np.stack([labels for _, labels in drawn])
    assert hashlib.sha256(labels.tobytes()).hexdigest()[:16] == "521d0ecc0e2fd76f"
    frames = np.stack([image for image, _ in drawn]).astype(np.float64)
    # a machine's sine and exponential may round a value to its neighbour
    assert frames.mean() == pytest.approx(118.1392, abs=1e-3)
    assert frames.std() == pytest.approx(30.3972, abs=1e-3)


def test_a_clip_has_what_its_frames_show():
    video = synthetic_vis_videos("train", 4)[3]
    clip = video.clip()
    assert clip.frames.shape == (12, 96, 160, 3) and clip.dataset == "synthetic-vis-v1"
    assert clip.categories == list(CLASSES) and set(clip.classes) <= {1, 2, 3}
    for t in range(12):
        image, labels = render("train", 3, t)
        assert (clip.frames[t] == image).all()
        shown = labels == clip.ids[:, None, None]
        assert (clip.masks[t] == shown * clip.valid[t, :, None, None]).all()
        assert ((shown.sum((1, 2)) >= synthetic_vis.MIN_PIXELS) == clip.valid[t]).all()


def test_frames_do_not_depend_on_order_or_clip_length():
    short, long = (synthetic_vis_videos("test", 2, frames)[1] for frames in (5, 20))
    late = long.frame(4)
    synthetic_vis._scene.cache_clear()
    assert (short.frame(4) == late).all() and short.rles(4) == long.rles(4)


def test_train_and_test_clips_differ_and_regimes_take_turns():
    train, test = (synthetic_vis_videos(split, 8) for split in ("train", "test"))
    assert (train[0].frame(0) != test[0].frame(0)).mean() > 0.9
    assert [regime_of(video) for video in test] == [*REGIMES, *REGIMES]
    assert train[5].name == "train-0005-fast" and train[5].video_id == 6


def test_slow_objects_keep_most_of_their_box_and_fast_ones_nothing(regimes):
    slow, fast = (np.concatenate([steps(v) for v in regimes[r]]) for r in ("slow", "fast"))
    assert 0.05 < np.median(slow) < 0.15 and 0.8 < np.median(fast) < 1.3


def test_objects_come_late_and_leave_early(regimes):
    for regime in ("slow", "fast"):
        valid = [video.valid[:, n] for video in regimes[regime] for n in range(len(video.ids))]
        late, early = (np.mean([not seen[t] for seen in valid]) for t in (0, -1))
        assert 0.1 < late < 0.5 and 0.1 < early < 0.5


def test_objects_that_are_alike_cross(regimes):
    for video in regimes["alike"]:
        vis = synthetic_vis._scene("test", video.video_id - 1)
        first, second = sorted(vis.scene.shapes, key=lambda shape: shape.label)[:2]
        assert vis.classes[0] == vis.classes[1]
        colours = [shape.texture.mean((0, 1)) for shape in (first, second)]
        np.testing.assert_allclose(*colours, atol=0.01)
        t = np.linspace(0, 11, 111)[:, None]
        apart = first.start - second.start + t * (first.velocity - second.velocity)
        distance = np.linalg.norm(apart, axis=1)
        assert distance.min() < 4 and 3.5 < t[distance.argmin()] < 7.5
        assert min(distance[0], distance[-1]) > 14


def test_hidden_objects_vanish_and_come_back(regimes):
    longest = np.concatenate([gaps(video) for video in regimes["hidden"]])
    assert (longest > 0).mean() > 2 / 3 and longest.max() <= 6
    assert set(longest) >= {1, 2, 3}  # short and long ones
    for regime in ("slow", "fast"):
        assert max(max(gaps(video)) for video in regimes[regime]) == 0


def test_bad_requests_are_refused():
    with pytest.raises(ValueError, match="synthetic-vis-v1 has no split 'val'"):
        synthetic_vis_videos("val")
    with pytest.raises(ValueError, match="at least 2 frames"):
        synthetic_vis_videos("test", num_frames=1)
