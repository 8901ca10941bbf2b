"""Which object a detection is: equal to the released loop, and what its memory does when full."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from tests.fixtures import golden_parameters, load_npz, load_spec
from vos_jax.ops.boxes import LEGACY, iou
from vos_jax.systems.masktrack_rcnn.association import (
    associate,
    comprehensive_scores,
    empty_memory,
)
from vos_jax.systems.vis_base import Detections

RELEASED = (1.0, 2.0, 10.0)
SLOTS, SIZE = 6, 16


def detections(boxes, scores, classes, embeddings, slots=SLOTS):
    """Of one video, padded to `slots`."""
    count = len(boxes)

    def padded(x, dtype):
        x = np.asarray(x, dtype)
        return jnp.asarray(np.pad(x, ((0, slots - count), *[(0, 0)] * (x.ndim - 1)))[None])

    return Detections(
        boxes=padded(boxes, np.float32),
        scores=padded(scores, np.float32),
        classes=padded(classes, np.int32),
        probabilities=jnp.zeros((1, slots, 1)),
        masks=jnp.zeros((1, slots, 1, 1)),
        embeddings=padded(embeddings, np.float32),
        valid=jnp.arange(slots)[None] < count,
    )


@jax.jit
def follow_all(memory, found):
    v = comprehensive_scores(memory, found, RELEASED, True, LEGACY)
    return associate(memory, found, v)


@functools.partial(jax.jit, static_argnames=("coefficients", "embedding", "unique"))
def follow(memory, found, coefficients=RELEASED, embedding=True, unique=False):
    v = comprehensive_scores(memory, found, coefficients, embedding, LEGACY)
    memory, ids = associate(memory, found, v, unique)
    return memory, ids[0], v[0]


def test_the_released_loop_is_followed_frame_by_frame():
    golden, spec = load_npz("masktrack", "loop_case_a"), load_spec("masktrack")["loop"]
    arrays = golden_parameters(spec, spec["seeds"]["a"])
    weight, bias = (arrays[f"track_head.fcs.0.{leaf}"] for leaf in ("weight", "bias"))
    memory = empty_memory(1, 8, SIZE)
    frames = sum(key.endswith("det_bboxes") for key in golden)
    for t in range(frames):
        of_frame = {k.split("_", 1)[1]: v for k, v in golden.items() if k.startswith(f"t{t}_")}
        boxes, count = of_frame["det_bboxes"], len(of_frame["det_bboxes"])
        embeddings = of_frame["roi_feats"].reshape(count, weight.shape[1]) @ weight.T + bias
        found = detections(boxes[:, :4], boxes[:, 4], of_frame["det_labels"], embeddings)
        memory, ids, v = follow(memory, found)
        np.testing.assert_array_equal(ids[:count], of_frame["obj_ids"])
        assert (ids[count:] == -1).all()
        if "comp_scores" in of_frame:
            expected = of_frame["comp_scores"]
            np.testing.assert_allclose(v[:count, : expected.shape[1]], expected, atol=1e-4)
        known = len(of_frame["mem_labels"])
        assert memory.used[0].sum() == known == memory.next_id[0]
        np.testing.assert_array_equal(memory.boxes[0, :known], of_frame["mem_bboxes"][:, :4])
        np.testing.assert_array_equal(memory.classes[0, :known], of_frame["mem_labels"])
    assert frames == 8


def released_loop(memory, found, v):
    """The loop of the release over one frame; memory: lists of boxes, embeddings and classes."""
    ids, best = [], np.full(len(memory["classes"]), -100.0)
    for i, row in enumerate(v):
        choice = int(np.argmax(row))
        if choice == 0:
            ids.append(len(memory["classes"]))
            for key in memory:
                memory[key].append(found[key][i])
        elif row[choice] > best[choice - 1]:
            ids.append(choice - 1)
            best[choice - 1] = row[choice]
            for key in ("boxes", "embeddings"):
                memory[key][choice - 1] = found[key][i]
        else:
            ids.append(-1)
    return ids


def test_random_videos_equal_the_released_loop():
    """Twenty objects of three classes that are alike, so that detections compete."""
    rng = np.random.default_rng(0)
    places, faces = rng.uniform(0, 60, (20, 2)), rng.normal(0, 0.7, (20, SIZE))
    competed = 0
    for _ in range(10):
        ours, theirs = empty_memory(1, 64, SIZE), dict(boxes=[], embeddings=[], classes=[])
        for _ in range(8):
            shown = rng.integers(0, 20, rng.integers(0, SLOTS + 1))
            corners = places[shown] + rng.normal(0, 3, (len(shown), 2))
            found = dict(
                boxes=np.float32(np.concatenate([corners, corners + 25], axis=1)),
                embeddings=np.float32(faces[shown] + rng.normal(0, 0.4, (len(shown), SIZE))),
                classes=shown % 3,
            )
            scores = np.sort(np.float32(rng.uniform(0.1, 1, len(shown))))[::-1]
            count = len(theirs["classes"])
            ours, ids, v = follow(ours, detections(scores=scores, **found))
            expected = released_loop(theirs, found, np.asarray(v)[: len(shown), : 1 + count])
            assert ids[: len(shown)].tolist() == expected
            competed += len(expected) - len(set(expected))
    assert competed > 10


def test_each_coefficient_counts_its_cue_alone():
    rng = np.random.default_rng(1)
    boxes = np.float32([[0, 0, 10, 10], [5, 5, 20, 20]])
    first = detections(boxes, [0.9, 0.8], [0, 1], rng.normal(size=(2, SIZE)))
    memory, *_ = follow(empty_memory(1, 4, SIZE), first)
    second = detections(boxes + 3, [0.7, 0.6], [1, 1], rng.normal(size=(2, SIZE)))

    def v(coefficients, embedding=False):
        return np.asarray(follow(memory, second, coefficients, embedding)[2])[:2, :3]

    np.testing.assert_allclose(v((1, 0, 0)), np.log([[0.7] * 3, [0.6] * 3]), atol=1e-6)
    overlaps = np.pad(iou(boxes + 3, boxes, LEGACY), ((0, 0), (1, 0)))
    np.testing.assert_allclose(v((0, 2, 0)), 2 * overlaps, atol=1e-6)
    np.testing.assert_array_equal(v((0, 0, 10)), [[10, 0, 10]] * 2)
    np.testing.assert_allclose(np.exp(v((0, 0, 0), True)).sum(axis=1), 1, atol=1e-6)
    cues = ((1, 0, 0), (0, 2, 0), (0, 0, 10))
    together = sum(map(v, cues)) + v((0, 0, 0), True)
    np.testing.assert_allclose(v(RELEASED, True), together, atol=1e-5)


def test_two_detections_of_an_object_share_its_identity_unless_they_must_not():
    face = np.ones((1, SIZE))
    memory, *_ = follow(empty_memory(1, 4, SIZE), detections([[0, 0, 9, 9]], [0.9], [0], face))
    better_later = detections([[4, 4, 13, 13], [0, 0, 9, 9]], [0.9, 0.9], [0, 0], face.repeat(2, 0))
    after, ids, _ = follow(memory, better_later)
    assert ids[:2].tolist() == [0, 0] and after.boxes[0, 0].tolist() == [0, 0, 9, 9]
    assert follow(memory, better_later, unique=True)[1][:2].tolist() == [-1, 0]


def test_a_full_memory_forgets_what_it_has_not_seen_for_longest_and_its_identity_never_returns():
    faces = 5 * np.eye(SIZE)

    def frame(*objects):
        boxes = [[20 * k, 0, 20 * k + 9, 9] for k in objects]
        return detections(boxes, [0.9] * len(objects), objects, faces[list(objects)])

    memory, ids, _ = follow(empty_memory(1, 3, SIZE), frame(0, 1, 2))
    assert ids[:3].tolist() == [0, 1, 2]
    for shown, expected in (((0, 2), [0, 2]), ((0, 3), [0, 3]), ((1, 2), [4, 2]), ((0,), [5])):
        memory, ids, _ = follow(memory, frame(*shown))
        assert ids[: len(shown)].tolist() == expected
    assert memory.used.all() and memory.next_id.tolist() == [6]


def test_more_new_objects_than_places_have_identities_all_the_same():
    boxes = [[20 * k, 0, 20 * k + 9, 9] for k in range(5)]
    found = detections(boxes, [0.9] * 5, range(5), np.eye(SIZE)[:5])
    memory, ids, _ = follow(empty_memory(1, 3, SIZE), found)
    assert ids[:5].tolist() == [0, 1, 2, 3, 4] and memory.ids[0].tolist() == [0, 1, 2]


def test_videos_of_a_batch_do_not_meet():
    rng, videos = np.random.default_rng(2), 3
    memory, alone = empty_memory(videos, 4, SIZE), [empty_memory(1, 4, SIZE)] * videos
    for t in range(4):
        faces, boxes = rng.normal(size=(videos, 2, SIZE)), rng.uniform(0, 60, (videos, 2, 4))
        found = [
            detections(boxes[k], [0.9, 0.5], [t % 2, k % 2], faces[k], 2) for k in range(videos)
        ]
        together = jax.tree.map(lambda *x: jnp.concatenate(x), *found)
        memory, ids = follow_all(memory, together)
        for k in range(videos):
            alone[k], expected = follow_all(alone[k], found[k])
            np.testing.assert_array_equal(ids[k], expected[0])
