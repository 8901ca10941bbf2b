"""Linkers on tracks of known identity: births, deaths, crossings, and what each cannot do."""

import numpy as np
import pytest

from tests.inference.linking.moving import (
    SIZE,
    World,
    disc,
    found_of,
    identities,
    is_exact,
    straight,
)
from vos_jax.data.rle import boxes, encode
from vos_jax.inference.linking.base import Found, NoLinker, best_pairs, box_overlaps, mask_overlaps
from vos_jax.inference.linking.deepsort import DeepSort
from vos_jax.inference.linking.feelvos import PropagationLinker, painted
from vos_jax.inference.linking.flow import FlowLinker, move_masks
from vos_jax.inference.linking.iou import BoxLinker
from vos_jax.inference.linking.kalman import Kalman, measured
from vos_jax.inference.streaming import VideoSegmenter

A, B, C = np.eye(3)  # what objects look like
BLANK = np.zeros((*SIZE, 3), np.uint8)
ONLINE = {"iou": BoxLinker, "flow": FlowLinker, "deepsort": DeepSort}


@pytest.mark.parametrize("name", ONLINE)
def test_births_and_deaths_are_exact(name):
    world = World(
        [
            (1, 8, straight((15, 20), (1, 3)), A),
            (1, 8, straight((60, 100), (-1, -2), first=2), B),
            (2, 8, straight((40, 60), (0.5, 1), end=5), C),
            (2, 7, straight((66, 30), (0, 2), first=6), C),
        ],
        10,
    )
    assert is_exact(identities(ONLINE[name](), world))


@pytest.mark.parametrize("name", ONLINE)
def test_objects_of_two_classes_cross_through_each_other(name):
    world = World(
        [(1, 8, straight((40, 20), (0, 4)), A), (2, 8, straight((40, 80), (0, -4)), A)], 14
    )
    assert is_exact(identities(ONLINE[name](), world))


@pytest.mark.parametrize("name", ONLINE)
def test_an_object_that_left_is_another_when_something_comes_elsewhere(name):
    world = World(
        [(1, 8, straight((15, 20), (0, 1), end=3), A), (1, 8, straight((60, 90), (0, 1), 6), B)], 9
    )
    assert is_exact(identities(ONLINE[name](), world))


@pytest.mark.parametrize("name", ONLINE)
def test_frames_without_detections_are_taken(name):
    linker, none = ONLINE[name](), found_of(np.zeros((0, *SIZE)), [], np.zeros((0, 3)))
    one = found_of([disc((40, 40), 8)], [1], [A])
    found = [none, one, none, one, none, none]
    ids = [linker.step(BLANK, each)[0].ids.tolist() for each in found]
    assert [len(i) for i in ids] == [0, 1, 0, 1, 0, 0] and ids[1] == [0]


def test_boxes_lose_an_object_that_was_away_unless_they_wait_for_it():
    world = World([(1, 8, straight((40, 20), (0, 2), away=(4, 5)), A)], 9)
    assert identities(BoxLinker(), world) == [[0] * 4 + [1] * 3]
    assert identities(BoxLinker(patience=1), world) == [[0] * 4 + [1] * 3]
    assert identities(BoxLinker(patience=2), world) == [[0] * 7]


def test_boxes_that_do_not_overlap_are_not_linked():
    world = World([(1, 6, straight((40, 15), (0, 20)), A)], 4)
    assert identities(BoxLinker(), world) == [[0, 1, 2, 3]]


def test_the_nearest_box_wins_whatever_the_order():
    world = World(
        [(1, 9, straight((40, 40), (0, 5)), A), (1, 9, straight((40, 52), (0, 5)), A)], 8, shuffle=3
    )
    assert is_exact(identities(BoxLinker(), world))


def test_flow_follows_where_boxes_do_not_overlap_any_more():
    world = World([(1, 12, straight((40, 20), (0, 14)), A)], 6)
    assert len(set(identities(BoxLinker(least=0.3), world)[0])) > 1
    assert is_exact(identities(FlowLinker(least=0.3), world))


def test_masks_are_moved_from_where_each_pixel_came():
    masks = disc((40, 50), 9)[None]
    flow = np.zeros((*SIZE, 2), np.float32)
    flow[...] = -7, 4  # the object is 7 to the right and 4 higher than it was
    assert (move_masks(masks, flow)[0] == disc((36, 57), 9)).all()
    flow[...] = 500, 0
    assert not move_masks(masks, flow).any()


def test_deepsort_finds_an_object_again_by_where_it_should_be_and_its_looks():
    away = (5, 6, 7)
    world = World(
        [
            (1, 8, straight((40, 10), (0, 4), away=away), A),
            (1, 8, straight((20, 40), (0, 4), away=away), B),
        ],
        14,
    )
    assert is_exact(identities(DeepSort(), world))
    assert len(set(identities(DeepSort(patience=2), world)[0])) == 2


def test_deepsort_tells_objects_that_cross_by_their_looks():
    paths = straight((30, 20), (1, 4)), straight((50, 70), (-1, -4))
    world = World([(1, 8, path, look) for path, look in zip(paths, (A, B), strict=True)], 14)
    assert is_exact(identities(DeepSort(), world))


def test_deepsort_takes_no_detection_that_cannot_be_the_object():
    here, far = found_of([disc((20, 20), 6)], [1], [A]), found_of([disc((60, 100), 6)], [1], [A])
    linker = DeepSort()
    ids = [int(linker.step(BLANK, each)[0].ids[0]) for each in (here, here, here, far)]
    assert ids == [0, 0, 0, 1]
    other = found_of([disc((20, 20), 6)], [2], [A])
    assert linker.step(BLANK, other)[0].ids.tolist() == [2]


def test_deepsort_needs_features_of_any_length():
    with pytest.raises(ValueError, match="deepsort compares features"):
        DeepSort().step(BLANK, found_of([disc((40, 40), 8)], [1]))
    long = [found_of([disc((40, 40), 8)], [1], scale * A[None]) for scale in (1, 900)]
    linker = DeepSort()
    assert [int(linker.step(BLANK, each)[0].ids[0]) for each in long] == [0, 0]


def test_a_filter_learns_the_speed_of_a_box_and_its_own_uncertainty():
    truth = np.array([[10 + 5.0 * t, 20, 30 + 5.0 * t, 60] for t in range(12)])
    z = measured(truth)
    kalman = Kalman(z[0])
    np.testing.assert_allclose(kalman.box, truth[0])
    for t in range(1, 11):
        kalman.predict()
        kalman.update(z[t])
    assert abs(kalman.mean[4] - 5) < 0.5 and np.abs(kalman.mean[[5, 6, 7]]).max() < 1e-6
    kalman.predict()
    known = kalman.covariance[0, 0]
    assert np.abs(kalman.box - truth[11]).max() < 1.5
    assert kalman.distances(z[11:])[0] < 1 < kalman.distances(z[:1])[0]
    kalman.predict()
    assert kalman.covariance[0, 0] > known
    np.testing.assert_allclose(kalman.covariance, kalman.covariance.T, atol=1e-9)


class Follower:
    """A segmenter that follows discs perfectly: it is told the world and knows labels by place."""

    def __init__(self, world):
        self.world, self.calls = world, []
        self.reset()

    def reset(self):
        self.labels = {}

    def step(self, frame, labels=None):
        t = self.frames.index(frame.tobytes())
        self.calls.append((t, labels is not None))
        alive = {n: one[2](t) for n, one in enumerate(self.world.objects) if one[2](t) is not None}
        if labels is not None:
            for n, centre in alive.items():
                y, x = np.rint(centre).astype(int)
                if labels[y, x]:
                    self.labels[n] = int(labels[y, x])
        answer = np.zeros(SIZE, np.uint8)
        for n, label in self.labels.items():
            if n in alive:
                answer[disc(alive[n], self.world.objects[n][1])] = label
        return answer


def followed(objects, frames, **options):
    world = World(objects, frames)
    follower = Follower(world)
    follower.frames = [World(objects, frames).step(t)[0].tobytes() for t in range(frames)]
    return identities(PropagationLinker(follower, **options), world), follower


def test_propagated_masks_link_births_deaths_gaps_and_leaps():
    objects = [
        (1, 8, straight((15, 20), (0, 12), end=6), A),
        (1, 8, straight((60, 100), (-1, -2), first=2), B),
        (2, 8, straight((40, 40), (0, 2), away=(3, 4)), C),
    ]
    got, follower = followed(objects, 9)
    assert is_exact(got)
    assert [t for t, given in follower.calls if given] == [0, 2]  # only where something is new


def test_a_memory_that_is_full_begins_anew_with_what_is_seen():
    objects = [(1, 7, straight((15 + 16 * n, 20), (0, 3), first=n), A) for n in range(4)]
    got, follower = followed(objects, 8, references=2)
    assert is_exact(got)
    assert sorted(follower.labels.values()) == [1, 2, 3, 4]


def test_a_real_system_can_be_the_one_that_propagates(tiny_feelvos, clip):
    frames, masks = clip
    linker, ids = PropagationLinker(VideoSegmenter(*tiny_feelvos), least=-1.0), []
    for frame, labels in zip(frames[:3], masks[:3], strict=True):
        rles = encode(labels == np.array([1, 2])[:, None, None])
        facts = (np.array([0.9, 0.8], np.float32), np.array([1, 2]), rles, labels.shape)
        ids.append(linker.step(frame, Found(boxes(rles), *facts))[0].ids.tolist())
    assert ids == [[0, 1]] * 3


def test_the_best_detection_is_painted_on_top():
    masks = np.stack([disc((40, 40), 10), disc((40, 46), 10)])
    labels = painted(masks, np.array([0.9, 0.2]), first=5)
    assert labels[40, 44] == 5 and labels[40, 55] == 6
    assert painted(masks, np.array([0.2, 0.9]), first=5)[40, 44] == 6


def test_without_a_linker_every_detection_is_a_track_the_best_first():
    linker = NoLinker()
    masks = [disc((40, 20 + 30 * n), 8) for n in range(3)]
    scores = np.array([0.2, 0.9, 0.5], np.float32)
    ids = [linker.step(BLANK, found_of(masks, [1] * 3, scores=scores))[0].ids for _ in range(2)]
    assert ids[0].tolist() == [2, 0, 1] and ids[1].tolist() == [5, 3, 4]


def test_pairs_are_one_to_one_and_the_highest_first():
    worth = np.array([[0.5, 0.6, 0.0], [0.9, 0.8, 0.05]])
    assert best_pairs(worth, 0.1) == [(1, 0), (0, 1)]
    assert best_pairs(worth, 0.7) == [(1, 0)]
    assert best_pairs(np.zeros((0, 3)), 0) == [] == best_pairs(np.zeros((2, 0)), 0)


def test_overlaps_of_boxes_and_masks():
    three = np.array([[0, 0, 2, 2], [1, 0, 3, 2], [5, 5, 5, 5]])
    np.testing.assert_allclose(
        box_overlaps(three, three), [[1, 1 / 3, 0], [1 / 3, 1, 0], [0, 0, 0]]
    )
    masks = np.zeros((3, 4, 5), bool)
    masks[0, :2], masks[1, 1:3] = True, True
    np.testing.assert_allclose(
        mask_overlaps(masks, masks), [[1, 1 / 3, 0], [1 / 3, 1, 0], [0, 0, 0]]
    )


def test_an_unknown_preset_of_the_flow_is_refused():
    with pytest.raises(
        ValueError, match="expected a preset of ultrafast, fast, medium, got 'slow'"
    ):
        FlowLinker(preset="slow")
