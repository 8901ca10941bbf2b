import itertools
import subprocess
import sys

import numpy as np
import pytest

from tests.data.trees import davis_tree, youtube_tree
from vos_jax.data.augment import Balance
from vos_jax.data.masks import write_mask
from vos_jax.data.objects import Choice
from vos_jax.data.pipeline import Examples, batches
from vos_jax.data.sources import Source, open_sources
from vos_jax.data.synthetic import synthetic_videos

KEYS = ("frames", "labels", "valid", "classes", "source_index")


def make(sources=None, **options):
    if sources is None:
        sources = [Source("synthetic", synthetic_videos("train", 6))]
    given = dict(frames=3, crop=(64, 80), max_objects=4, seed=3)
    return Examples(sources, **{**given, **options})


def same(one, other):
    return one["name"] == other["name"] and all((one[k] == other[k]).all() for k in KEYS)


def test_an_example_depends_on_seed_and_number_only():
    one, other = make(), make()
    later = one.example(5)
    one.example(2)
    assert same(one.example(5), later) and same(other.example(5), later)
    assert not same(make(seed=4).example(5), later)
    assert not same(one.example(6), later)


def test_examples_have_the_declared_form():
    example = make().example(0)
    assert example["frames"].shape == (3, 64, 80, 3) and example["frames"].dtype == np.float32
    assert example["labels"].shape == (3, 64, 80) and example["labels"].dtype == np.uint8
    assert example["valid"].dtype == bool and example["source_index"].dtype == np.int32
    ids = np.unique(example["labels"][0])
    assert ids[(ids > 0) & (ids < 255)].tolist() == list(range(1, example["valid"].sum() + 1))
    assert example["valid"].shape == (4,) and example["name"].startswith("synthetic-v1/train-")


def test_batches_are_the_examples_in_order():
    examples = make()
    for workers in (1, 3):
        stream = batches(examples, 5, 2, workers=workers)
        for number, batch in enumerate(itertools.islice(stream, 3)):
            for row in range(2):
                found = {k: batch[k][row] for k in (*KEYS, "name")}
                assert same(found, examples.example(5 + 2 * number + row))
        stream.close()


def test_processes_share_out_the_rows_of_the_same_global_batches():
    examples = make()
    whole = list(itertools.islice(batches(examples, 0, 4), 2))
    parts = [list(itertools.islice(batches(examples, 0, 4, p, 2), 2)) for p in range(2)]
    for step in range(2):
        for key in KEYS:
            joined = np.concatenate([parts[p][step][key] for p in range(2)])
            assert (joined == whole[step][key]).all()
        assert parts[0][step]["name"] + parts[1][step]["name"] == whole[step]["name"]
    with pytest.raises(ValueError, match="multiple of the 3 processes, got 4"):
        batches(examples, 0, 4, 0, 3)


def test_shares_follow_weight_and_not_the_number_of_videos():
    videos = synthetic_videos("train", 6)
    sources = [Source("few", videos[:1], 3.0), Source("many", videos[1:], 1.0)]
    examples = make(sources, crop=(96, 160))
    few = [examples.example(i)["name"] == "synthetic-v1/train-0000" for i in range(60)]
    assert 0.5 < np.mean(few) < 0.95


def tree_sources(root, **options):
    entry = {"kind": "davis", "dir": str(root), "split": "train", **options}
    return open_sources({"train": {"davis": entry}}, "train")


def test_videos_that_never_pass_the_rule_are_named(tmp_path):
    root = davis_tree(tmp_path)
    for name in ("bear", "dog"):
        for t in range(5):
            write_mask(root / f"Annotations/480p/{name}/{t:05d}.png", np.zeros((48, 64), np.uint8))
    examples = make(tree_sources(root), crop=(48, 64))
    with pytest.raises(ValueError, match=r"example 7: none of 20 draws.*davis2017/(bear|dog).*;"):
        examples.example(7)


def test_a_draw_without_objects_is_drawn_anew(tmp_path):
    root = davis_tree(tmp_path)
    for t in range(5):
        write_mask(root / f"Annotations/480p/bear/{t:05d}.png", np.zeros((48, 64), np.uint8))
    examples = make(tree_sources(root), crop=(48, 64))
    assert {examples.example(i)["name"] for i in range(10)} == {"davis2017/dog"}
    assert examples.bad_clips == 0


CFBI = {"choose": "reference_and_sequence", "frames": 5, "groups": ((0, 1, 2, 3, 4),)}


def test_balanced_examples_have_visible_objects_in_one_window():
    options = {**CFBI, "max_gap": 3, "crop": (49, 49), "max_objects": 2, "interpolation": "cubic"}
    options |= {"objects": Choice("visible", 100), "balance": Balance(tries=5, pixels=100)}
    examples = make(**options)
    for i in range(12):
        example = examples.example(i)
        reference, count = example["labels"][0], example["valid"].sum()
        assert 1 <= count <= 2 and example["labels"].max() == count
        assert all((reference == k).sum() > 100 for k in range(1, count + 1))
        same_frame = example["source_index"] == example["source_index"][0]
        assert (example["frames"][same_frame] == example["frames"][0]).all()


def test_a_mask_that_a_draw_looks_at_is_named_or_skipped_and_counted(tmp_path):
    root = davis_tree(tmp_path)
    for t in range(5):
        (root / f"Annotations/480p/bear/{t:05d}.png").write_bytes(b"cut off")
    options = {**CFBI, "crop": (33, 33), "objects": Choice("visible", 20)}
    with pytest.raises(ValueError, match=r"bear/0000\d\.png"):
        [make(tree_sources(root), **options).example(i) for i in range(10)]
    examples = make(tree_sources(root), **options, on_bad_clip="skip")
    assert {examples.example(i)["name"] for i in range(10)} == {"davis2017/dog"}
    assert examples.bad_clips > 0


def test_a_broken_file_is_named_or_skipped_and_counted(tmp_path):
    root = davis_tree(tmp_path)
    for t in range(5):
        (root / f"JPEGImages/480p/bear/{t:05d}.jpg").write_bytes(b"cut off")
    examples = make(tree_sources(root), crop=(48, 64))
    with pytest.raises(ValueError, match=r"^[^\n]*bear/0000\d\.jpg: cannot be read[^\n]*$"):
        list(itertools.islice(batches(examples, 0, 2), 10))
    examples = make(tree_sources(root), crop=(48, 64), on_bad_clip="skip")
    assert {examples.example(i)["name"] for i in range(10)} == {"davis2017/dog"}
    assert examples.bad_clips > 0


@pytest.mark.parametrize(
    "options, message",
    [
        ({"choose": "nonsense"}, "choose: expected one of .*reference_and_run"),
        ({"on_bad_clip": "ignore"}, r"'raise', 'skip'\), got 'ignore'"),
        ({"interpolation": "nearest"}, r"interpolation: expected one of .*linear.*'nearest'"),
        ({"max_objects": 0}, r"max_objects: expected 1\.\.254, got 0"),
        ({"sources": []}, "at least one source"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        make(**options) if "sources" not in options else make([])


def test_a_program_that_leaves_its_batches_open_ends():
    program = (
        "from vos_jax.data.pipeline import *\n"
        "from vos_jax.data.synthetic import synthetic_videos\n"
        "s = [Source('s', synthetic_videos('train', 4))]\n"
        "e = Examples(s, frames=3, crop=(96, 160), max_objects=3, seed=0)\n"
        "stream = batches(e, 0, 2)\n"
        "print(next(stream)['frames'].shape)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=1200)
    assert done.returncode == 0 and b"(2, 3, 96, 160, 3)" in done.stdout, done.stderr[-2000:]


def test_categories_become_numbers_and_those_that_are_not_listed_none(tmp_path):
    """Object 2 is a penguin and 7, which comes later, a dog."""
    source = {"kind": "youtube_vos", "dir": str(youtube_tree(tmp_path)), "split": "train"}
    sources = open_sources({"train": {"y": source}}, "train")
    options = dict(crop=(48, 64), frames=2, choose="ordered", groups=((0, 1),), scale=(1, 1))
    for names, numbers in ((("cat", "dog", "penguin"), (3, 2)), (("dog",), (0, 1)), ((), (0, 0))):
        examples, seen = make(sources, classes=names, **options), set()
        for i in range(12):
            example = examples.example(i)
            assert example["classes"].dtype == np.int32
            seen.add(tuple(example["classes"].tolist()))
        expected = {(numbers[0], 0, 0, 0), (*numbers, 0, 0)}
        assert seen == expected, names
    merged = make(sources, classes=("dog",), objects=Choice(merge=True), **options)
    assert all((merged.example(i)["classes"] == 0).all() for i in range(5))
