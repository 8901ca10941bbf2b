"""`score --protocol youtube-vis`: numbers in a file, and one line for what does not fit."""

import importlib
import json
import random

import numpy as np
import pytest

from tests.fixtures import fixture
from tests.metrics.tracks import annotation_file, discs, results_file, rles_of

command = importlib.import_module("vos_jax.score")  # vos_jax.score itself is the function


def run(gt, pred, out, *arguments):
    paths = [f"--gt={gt}", f"--pred={pred}", f"--out={out}"]
    command.main(["score", "--protocol=youtube-vis", *paths, *arguments])


def files(folder, change=lambda truth, results: None, **options):
    """Two videos of four frames with two tracks each, and results that are the truth."""
    videos = []
    for seed in (3, 5):
        rles = rles_of(discs(np.random.default_rng(seed), 4, 2))
        videos.append([(1, rles[0]), (2, rles[1])])
    gt, pred = folder / "gt.json", folder / "results.json"
    truth = annotation_file(gt, videos, **options)
    results_file(pred, [[(*t, 0.9) for t in tracks] for tracks in videos], **options)
    results = json.loads(pred.read_text())  # not the dictionaries of the truth
    change(truth, results)
    gt.write_text(json.dumps(truth))
    pred.write_text(json.dumps(results))
    return gt, pred


def test_the_file_has_the_official_numbers_and_the_report_says_what_was_counted(tmp_path, capsys):
    folder = fixture("ytvis_eval") / "case_3"
    run(folder / "gt.json", folder / "results.json", tmp_path)
    printed = capsys.readouterr().out
    assert "8 videos, 14 true tracks, 132 results" in printed and "class_4" in printed
    found = json.loads((tmp_path / "scores.json").read_text())
    expected = json.loads((folder / "expected.json").read_text())["stats"]
    np.testing.assert_allclose(list(found["metrics"].values()), list(expected.values()), atol=1e-9)
    assert found["settings"]["class_agnostic"] is False
    run(folder / "gt.json", folder / "results.json", tmp_path / "pooled", "--class-agnostic")
    pooled = json.loads((tmp_path / "pooled/scores.json").read_text())
    assert list(pooled["per_category"]) == ["all objects"]


def test_shuffled_results_and_other_ids_give_the_same_numbers(tmp_path):
    def shuffle(truth, results):
        random.Random(0).shuffle(truth["videos"])
        random.Random(1).shuffle(results)

    found = []
    for name, first_id, change in (("a", 1, lambda *_: None), ("b", 70, shuffle)):
        (tmp_path / name).mkdir()
        gt, pred = files(tmp_path / name, change, first_id=first_id)
        run(gt, pred, tmp_path / name)
        found.append(json.loads((tmp_path / name / "scores.json").read_text()))
    assert found[0]["metrics"] == found[1]["metrics"]
    assert found[0]["metrics"]["AP"] == pytest.approx(1)
    assert list(found[1]["per_sequence"]) == ["70", "71"]
    assert found[0]["id_switches"] == {
        "switches": 0, "ids_per_track": 1.0, "tracks_followed": 4, "tracks": 4,
    }  # fmt: skip


def test_no_results_are_scored_too(tmp_path):
    gt, pred = files(tmp_path, lambda truth, results: results.clear())
    run(gt, pred, tmp_path)
    metrics = json.loads((tmp_path / "scores.json").read_text())["metrics"]
    assert metrics["AP"] == 0.0 and metrics["APl"] == -1.0


def put(**values):
    return lambda truth, results: results[1].update(values)


def longer(truth, results):
    results[1]["segmentations"].append(None)


def other_size(truth, results):
    results[1]["segmentations"][2] = {"size": [160, 120], "counts": "0"}


def cut_off(truth, results):
    results[1]["segmentations"][2]["counts"] = results[1]["segmentations"][2]["counts"][:-3]


def withheld(truth, results):
    del truth["annotations"]


def wrong_track(truth, results):
    truth["annotations"][0]["video_id"] = 9


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put(video_id=3), r"results.json, result 1: there is no video 3 .*ids 1 to 2"),
        (put(video_id="1"), "there is no video '1'"),
        (put(category_id=0), "category_id is 0, the file lists 1, 2, 3"),
        (put(score="high"), "expected a number as score, found 'high'"),
        (put(score=float("nan")), "expected a number as score, found nan"),
        (put(segmentations=None), "has 4 frames, expected as many.*found no list"),
        (longer, "video 1 has 4 frames, expected as many segmentations.*found 5"),
        (other_size, r"result 1, video 1, frame 2: the mask is of size \[160, 120\].*120, 160"),
        (cut_off, "result 1, video 1, frame 2: the run lengths are to sum up to 120 x 160"),
        (lambda truth, results: results[1].pop("score"), "missing: score"),
        (withheld, "gt.json: the file has no annotations; those of the splits valid"),
        (wrong_track, "gt.json, annotation 1: there is no video 9"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line_and_leaves_no_scores(tmp_path, change, message):
    gt, pred = files(tmp_path, change)
    with pytest.raises(SystemExit, match=message) as refused:
        run(gt, pred, tmp_path / "out")
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "out").exists()


def test_files_of_another_kind_and_existing_scores_are_refused(tmp_path):
    gt, pred = files(tmp_path)
    with pytest.raises(SystemExit, match="expected a list of results, found an object"):
        run(gt, gt, tmp_path / "out")
    with pytest.raises(SystemExit, match="expected an object with videos, categories"):
        run(pred, pred, tmp_path / "out")
    with pytest.raises(SystemExit, match="nothing.json: no such file of results"):
        run(gt, tmp_path / "nothing.json", tmp_path / "out")
    run(gt, pred, tmp_path / "out")
    with pytest.raises(SystemExit, match="holds results already: scores.json.*--overwrite"):
        run(gt, pred, tmp_path / "out")
    run(gt, pred, tmp_path / "out", "--overwrite")


def test_flags_of_masks_do_not_go_with_tracks_nor_those_of_tracks_with_masks(tmp_path):
    gt, pred = files(tmp_path)
    for flag in ("--workers=2", "--set=val", "--by=category", "--allow-missing"):
        name = flag.split("=")[0].replace("-m", "_m")
        with pytest.raises(SystemExit, match=f"{name} does not go with --protocol youtube-vis"):
            run(gt, pred, tmp_path, flag)
    with pytest.raises(SystemExit, match="--class_agnostic goes with --protocol youtube-vis"):
        paths = ["--gt=a", "--pred=b", "--out=c"]
        command.main(["score", "--protocol=davis2017", *paths, "--class-agnostic"])
