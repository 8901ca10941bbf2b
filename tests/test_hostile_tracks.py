"""Annotations and results of instances in any form: read right, or refused by the file's name."""

import json

import numpy as np
from hypothesis import strategies as st

from tests.data.test_still_instances import coco, image
from tests.data.test_youtube_vis import SIZE, content_of, tree
from tests.hostile import HOSTILE_NAMES, JSON, hostile, refused_by_name
from tests.hostile import changed as with_change
from vos_jax.data.coco import open_coco
from vos_jax.data.polygons import open_polygons
from vos_jax.data.rle import decode, from_segmentation
from vos_jax.data.track_files import read_annotations
from vos_jax.data.youtube_vis import open_youtube_vis
from vos_jax.inference.instance_submission import write_instance_submission
from vos_jax.track_scoring import score_tracks

VALUES = JSON | HOSTILE_NAMES | st.integers(-2, 50)


def results_of(content):
    """Results that are the truth."""
    keys = ("video_id", "category_id", "segmentations")
    return [{"score": 0.5, **{key: a[key] for key in keys}} for a in content["annotations"]]


@hostile(st.floats(0, 1), VALUES)
def test_annotations_of_youtube_vis_are_read_or_refused(tmp_path, place, value):
    root, _ = tree(tmp_path) if not (tmp_path / "train").exists() else (tmp_path, None)
    (root / "train.json").write_text(json.dumps(with_change(content_of()[0], place, value)))
    with refused_by_name(tmp_path, "youtube_vis/"):
        for video in open_youtube_vis(str(root), "train"):
            assert "/" not in video.name and video.name not in ("", ".", "..")
            clip = video.clip()
            assert clip.masks.shape == (*clip.frames.shape[:1], len(clip.ids), *SIZE)
            assert np.isfinite(clip.boxes).all() and clip.classes.min(initial=1) >= 1


@hostile(st.floats(0, 1), VALUES)
def test_results_of_tracks_are_scored_and_packed_or_refused(tmp_path, place, value):
    content, _ = content_of()
    (tmp_path / "gt.json").write_text(json.dumps(content))
    results = tmp_path / "results.json"
    results.write_text(json.dumps(with_change(results_of(content), place, value)))
    out = tmp_path / "a.zip"
    out.unlink(missing_ok=True)
    scored = packed = None
    with refused_by_name(results):
        scored = score_tracks(tmp_path / "gt.json", results)
        assert all(-1 <= x <= 1 for x in scored.scores.metrics.values() if x == x)
    with refused_by_name(results):
        packed = write_instance_submission(results, tmp_path / "gt.json", out)
    assert (scored is None) == (packed is None) == (not out.exists())


@hostile(JSON, JSON)
def test_files_of_any_json_are_no_annotations(tmp_path, content, results):
    (tmp_path / "any.json").write_text(json.dumps(content))
    (tmp_path / "any results.json").write_text(json.dumps(results))
    (tmp_path / "gt.json").write_text(json.dumps(content_of()[0]))
    with refused_by_name(tmp_path / "any.json"):
        read_annotations(tmp_path / "any.json")
        raise AssertionError("taken")
    if results != []:
        with refused_by_name(tmp_path / "any results.json"):
            score_tracks(tmp_path / "gt.json", tmp_path / "any results.json")
            raise AssertionError("taken")


@hostile(st.floats(0, 1), VALUES)
def test_annotations_of_coco_are_read_or_refused(tmp_path, place, value):
    root = coco(tmp_path) if not (tmp_path / "val").exists() else tmp_path
    path = root / "annotations/instances_val.json"
    sound = path.with_name("sound.json")
    if not sound.exists():
        sound.write_text(path.read_text())
    path.write_text(json.dumps(with_change(json.loads(sound.read_text()), place, value)))
    with refused_by_name(tmp_path, "coco/"):
        for video in open_coco(str(root), "val"):
            clip = video.clip()
            assert clip.masks.shape == (1, len(clip.ids), 6, 9) and np.isfinite(clip.boxes).all()


@hostile(
    st.lists(
        st.lists(st.floats() | st.integers(-1, 3) | st.text(max_size=3), max_size=9), max_size=3
    )
)
def test_lines_of_polygons_are_read_or_refused(tmp_path, lines):
    if not (tmp_path / "images").exists():
        image(tmp_path / "images/a.png")
        (tmp_path / "labels").mkdir()
    text = "\n".join(" ".join(map(str, words)) for words in lines)
    (tmp_path / "labels/a.txt").write_text(text, errors="surrogatepass")
    with refused_by_name(tmp_path):
        clip = open_polygons(str(tmp_path))[0].clip()
        assert clip.masks.shape[2:] == (6, 9) and (clip.boxes >= 0).all()


@hostile(
    st.text(max_size=12) | st.lists(st.integers(-(2**40), 2**40), max_size=6) | JSON,
    st.sampled_from([[6, 9], [9, 6], [0, 0], None]),
)
def test_run_lengths_are_decoded_to_the_size_or_refused(counts, size):
    with refused_by_name("the file"):
        rle = from_segmentation({"size": size, "counts": counts}, (6, 9), "the file")
        assert decode(rle).shape == (6, 9)
