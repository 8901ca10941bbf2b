"""`package --benchmark youtube-vis`: a checked results.json, and nothing else, in a zip."""

import json
import zipfile

import numpy as np
import pytest

from tests.metrics.tracks import annotation_file, discs, results_file, rles_of
from vos_jax import package as command


def run(*arguments):
    command.main(["package", "--benchmark=youtube-vis", *map(str, arguments)])


def files(folder, change=lambda results: None, split="valid"):
    """A root with the list of a split without annotations, and results for one of two videos."""
    videos = [
        [(k + 1, rles) for k, rles in enumerate(rles_of(discs(np.random.default_rng(s), 4, 2)))]
        for s in (3, 5)
    ]
    listed = annotation_file(folder / f"{split}.json", videos, first_id=8)
    del listed["annotations"]
    (folder / f"{split}.json").write_text(json.dumps(listed))
    pred = folder / "results.json"
    results_file(pred, [[(*track, 0.5) for track in videos[0]]], first_id=8)
    results = json.loads(pred.read_text())
    change(results)
    pred.write_text(json.dumps(results))
    return [f"--data={folder}", f"--pred={pred}", f"--out={folder}/a.zip"], results


def content(folder):
    with zipfile.ZipFile(folder / "a.zip") as archive:
        assert archive.namelist() == ["results.json"]
        return json.loads(archive.read("results.json"))


def test_results_are_packed_with_the_official_keys_alone(tmp_path, capsys):
    arguments, results = files(tmp_path, lambda results: results[0].update(note="mine"))
    run(*arguments)
    printed = capsys.readouterr().out
    assert "2 tracks with 8 masks in 2 videos" in printed and "without a track: 1" in printed
    packed = content(tmp_path)
    assert list(packed[0]) == ["video_id", "category_id", "score", "segmentations"]
    results[0].pop("note")
    assert packed == results
    first = (tmp_path / "a.zip").read_bytes()
    run(*arguments, "--overwrite")
    assert (tmp_path / "a.zip").read_bytes() == first


def test_the_split_and_its_file_can_be_chosen(tmp_path):
    arguments, _ = files(tmp_path, split="test")
    with pytest.raises(SystemExit, match="expected the annotations of split 'valid' as one of"):
        run(*arguments)
    run(*arguments, "--split=test")
    run(*arguments, "--annotations=test.json", "--overwrite")
    assert len(content(tmp_path)) == 2


def bad_mask(results):
    results[1]["segmentations"][3]["counts"] = "1"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda results: results[1].update(video_id=1), "result 1: there is no video 1"),
        (lambda results: results[1].update(category_id=9), "category_id is 9"),
        (lambda results: results[1]["segmentations"].pop(), "video 8 has 4 frames"),
        (bad_mask, "result 1, video 8, frame 3: the run lengths are to sum up"),
    ],
)
def test_what_the_server_would_refuse_is_refused_before_a_zip_is_there(tmp_path, change, message):
    arguments, _ = files(tmp_path, change)
    with pytest.raises(SystemExit, match=message):
        run(*arguments)
    assert not (tmp_path / "a.zip").exists()


def test_an_existing_zip_needs_overwrite_and_flags_go_with_their_benchmarks(tmp_path):
    arguments, _ = files(tmp_path)
    run(*arguments)
    with pytest.raises(SystemExit, match=r"a\.zip exists; .*--overwrite"):
        run(*arguments)
    with pytest.raises(SystemExit, match="--meta goes with youtube-vos, not youtube-vis"):
        run(*arguments, "--meta=a.json")
    with pytest.raises(SystemExit, match="--annotations goes with youtube-vis, not youtube-vos"):
        command.main(["package", "--benchmark=youtube-vos", *arguments, "--annotations=a"])
