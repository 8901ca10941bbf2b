"""`vos_jax.score` on folders: official console numbers, files, and what it refuses."""

import csv
import importlib
import json
import re
import shutil
import zipfile

import numpy as np
import pytest
from PIL import Image

from tests.data.trees import fbms_tree, segtrack_tree, youtube_objects_tree, youtube_tree
from tests.fixtures import fixture, load_npz
from vos_jax.data.fbms import open_fbms
from vos_jax.data.masks import read_mask, write_mask
from vos_jax.data.segtrack import open_segtrack
from vos_jax.data.youtube_objects import CATEGORIES, open_youtube_objects
from vos_jax.data.youtube_vos import open_youtube_vos
from vos_jax.scoring import Scores

command = importlib.import_module("vos_jax.score")  # vos_jax.score itself is the function

TASKS = {
    "semi": ("davis2017", "Annotations"),
    "unsup": ("davis2017-unsupervised", "Annotations_unsupervised"),
}


def davis_tree(folder, sequences, annotations="Annotations", subset="val"):
    """A DAVIS root and results from name -> (annotation, result) [T, H, W] each."""
    root, pred = folder / "DAVIS", folder / "results"
    (root / "ImageSets/2017").mkdir(parents=True)
    (root / f"ImageSets/2017/{subset}.txt").write_text("\n".join(sequences) + "\n")
    for name, (truth, result) in sequences.items():
        places = [root / annotations / "480p" / name, root / "JPEGImages/480p" / name, pred / name]
        for place in places:
            place.mkdir(parents=True)
        for t in range(len(truth)):
            write_mask(places[0] / f"{t:05d}.png", truth[t])
            Image.new("RGB", (4, 4)).save(places[1] / f"{t:05d}.jpg")  # scoring reads no frame
            write_mask(places[2] / f"{t:05d}.png", result[t])
    return root, pred


def golden_tree(folder, case, task):
    """The PNG tree of a golden case, as stored or else made from its arrays."""
    stored = fixture("vos_eval") / f"{case}_tree_{task}.zip"
    if stored.is_file():
        zipfile.ZipFile(stored).extractall(folder)
        return folder / "DAVIS", folder / "results"
    golden = load_npz("vos_eval", case)
    names = map(str, golden[f"{task}_sequences"])
    sequences = {n: (golden[f"{task}/{n}/gt"], golden[f"{task}/{n}/pred"]) for n in names}
    return davis_tree(folder, sequences, TASKS[task][1])


def console(case, task):
    """Global numbers, and row name -> (J, F), of what the official tool prints."""
    text = (fixture("vos_eval") / f"{case}_cli_{task}.txt").read_text()
    rows = [line.split() for line in text.splitlines()]
    totals = [float(v) for v in rows[rows.index(next(r for r in rows if "J&F-Mean" in r)) + 1]]
    start = next(i for i, row in enumerate(rows) if row[:1] == ["Sequence"]) + 1
    return totals, {row[0]: tuple(map(float, row[1:])) for row in rows[start:] if row}


def run(root, pred, out, *flags, protocol="davis2017"):
    command.main(
        [
            "score",
            f"--protocol={protocol}",
            f"--gt={root}",
            f"--pred={pred}",
            f"--out={out}",
            *flags,
        ]
    )
    return json.loads((out / "scores.json").read_text())


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("case", ["case_a", "case_c"])
def test_png_trees_give_the_numbers_of_the_official_console(tmp_path, case, task):
    found = run(*golden_tree(tmp_path, case, task), tmp_path / "out", protocol=TASKS[task][0])
    totals, rows = console(case, task)
    np.testing.assert_allclose(list(found["metrics"].values()), totals, atol=5.1e-7)
    objects = list(found["per_object"].values())
    if task == "unsup":  # the console numbers a sequence's matched proposals
        order = {name: facts.get("proposal") for name, facts in found["per_object"].items()}
        names = sorted(order, key=lambda name: (name.rsplit("_", 1)[0], order[name]))
        objects = [found["per_object"][name] for name in names]
    values = [(facts["J-Mean"], facts["F-Mean"]) for facts in objects]
    np.testing.assert_allclose(values, list(rows.values()), atol=5.1e-7)
    golden = load_npz("vos_eval", case)
    for name in ("global", "per-sequence"):
        text = (tmp_path / f"out/{name}_results-val.csv").read_text()
        assert text == str(golden[f"{task}_csv_{name.replace('-', '_')}"])


@pytest.fixture
def tree(tmp_path):
    """Two sequences of 5 frames with two objects; the results are the truth, moved."""
    truth = np.zeros((5, 24, 32), np.uint8)
    truth[:, 4:12, 4:14], truth[:, 14:20, 8:24] = 1, 2
    moved = np.roll(truth, 2, axis=2)
    return davis_tree(tmp_path, {"ant": (truth, moved), "bee": (truth, truth)})


def test_workers_change_nothing(tree, tmp_path):
    one = run(*tree, tmp_path / "one")
    two = run(*tree, tmp_path / "two", "--workers=2")
    assert one == two and one["metrics"]["J-Mean"] < 1


def test_first_and_last_results_need_not_exist_in_davis(tree, tmp_path):
    whole = run(*tree, tmp_path / "whole")
    for name in ("00000.png", "00004.png"):
        (tree[1] / "ant" / name).unlink()
    assert run(*tree, tmp_path / "inner") == whole


def test_the_printed_table_says_what_is_counted(tree, tmp_path, capsys):
    run(*tree, tmp_path / "out", "--by=objects")
    printed = capsys.readouterr().out
    assert re.search(r"^ant_1 +0\.", printed, re.M)
    assert re.search(r"^2 +2 +4 +0\.", printed, re.M)  # both sequences have two objects
    assert "protocol davis2017: 2 videos, 4 objects (0 without a scored frame left out)" in printed
    assert (
        "6 of 10 frames scored" in printed
        and "void pixels of the annotation: background" in printed
    )
    assert "all but the first and the last frame" in printed


@pytest.mark.parametrize("name", ["bird of paradise", 'a, "b"'])
def test_a_sequence_may_have_any_name(tmp_path, capsys, name):
    truth = np.zeros((5, 24, 32), np.uint8)
    truth[:, 4:12, 4:14], truth[:, 14:20, 8:24] = 1, 2
    tree = davis_tree(tmp_path, {name: (truth, truth), "bee": (truth, truth)})
    found = run(*tree, tmp_path / "out")
    assert list(found["per_object"]) == [f"{name}_1", f"{name}_2", "bee_1", "bee_2"]
    with (tmp_path / "out/per-sequence_results-val.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["Sequence", "J-Mean", "F-Mean"]
    assert rows == [[row, "1.000", "1.000"] for row in found["per_object"]]
    printed = capsys.readouterr().out
    assert re.search(rf"^{re.escape(name)}_1 +1\.000 +1\.000$", printed, re.M)


def test_results_are_written_before_anything_is_said_about_them(tree, tmp_path, monkeypatch):
    def fails(*_):
        raise ValueError("the report fails")

    monkeypatch.setattr(Scores, "report", fails)
    with pytest.raises(SystemExit, match="the report fails"):
        run(*tree, tmp_path / "out")
    assert len(list((tmp_path / "out").iterdir())) == 3


def test_davis_2016_merges_objects_and_measures_t_when_asked(tree, tmp_path):
    found = run(*tree, tmp_path / "out", "--temporal=all", protocol="davis2016")
    assert list(found["per_object"]) == ["ant_1", "bee_1"]
    assert found["metrics"]["T-Mean"] == 0  # nothing moves in the results
    official = run(*tree, tmp_path / "t", "--temporal=official", protocol="davis2016")
    assert official["metrics"]["T-Mean"] is None  # neither is one of the benchmark's sequences


def test_existing_scores_are_neither_reused_nor_overwritten_unless_told(tree, tmp_path):
    first = run(*tree, tmp_path / "out")
    shutil.rmtree(tree[1] / "ant")
    shutil.copytree(tree[1] / "bee", tree[1] / "ant")
    with pytest.raises(SystemExit, match="holds results already.*--overwrite"):
        run(*tree, tmp_path / "out")
    assert run(*tree, tmp_path / "out", "--overwrite")["metrics"]["J-Mean"] == 1
    assert first["metrics"]["J-Mean"] < 1


def rename_all(folder):
    for file in sorted(folder.iterdir(), reverse=True):
        file.rename(folder / f"{int(file.stem) + 1:05d}.png")


def spoil(name, change):
    return lambda pred: change(pred / "ant" / name)


def change_labels(function):
    return lambda file: write_mask(file, function(read_mask(file)))


SPOILED = {
    "sequence missing": (
        lambda pred: shutil.rmtree(pred / "ant"),
        r"results: expected a folder for each of 2 sequences, 1 are missing: ant; .*there: bee",
    ),
    "frame missing": (
        spoil("00002.png", lambda file: file.unlink()),
        r"results/ant: expected results for frames 00001.*sequence ant; missing: 00002",
    ),
    "frame extra": (
        spoil("00002.png", lambda file: shutil.copy(file, file.parent / "00009.png")),
        r"results/ant: .*missing: none; extra: 00009.*from 00000.png to 00004.png",
    ),
    "frames renamed": (
        lambda pred: rename_all(pred / "ant"),
        r"results/ant: .*missing: none; extra: 00005",
    ),
    "size": (
        spoil("00001.png", change_labels(lambda labels: labels[::2, ::2])),
        r"ant/00001.png: the result is 12x16 .*annotation 24x32; write results at the size",
    ),
    "id": (
        spoil("00003.png", change_labels(lambda labels: labels * 3)),
        r"ant/00003.png: expected only ids of the annotation, \[1, 2\], found ids \[3, 6\]",
    ),
    "RGB": (
        spoil("00001.png", lambda file: Image.open(file).convert("RGB").save(file)),
        r"ant/00001.png: expected a palette or grey PNG .*found a colour image \(RGB\)",
    ),
    "black and white": (
        spoil(
            "00001.png",
            lambda file: Image.fromarray((read_mask(file) > 0) * np.uint8(255)).save(file),
        ),
        r"ant/00001.png: the mask holds only 0 and 255",
    ),
    "folder empty": (
        lambda pred: [file.unlink() for file in (pred / "ant").iterdir()],
        r"results/ant: the folder holds no result; expected one PNG per frame, such as 00000.png",
    ),
    "JPEG": (
        spoil("00001.png", lambda file: file.rename(file.with_suffix(".jpg"))),
        r"results/ant: expected PNG files, found 00001.jpg",
    ),
}


@pytest.mark.parametrize("what", SPOILED)
def test_results_that_do_not_fit_are_refused_by_name(tree, tmp_path, what):
    change, message = SPOILED[what]
    change(tree[1])
    with pytest.raises(SystemExit, match=message):
        run(*tree, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--allow-missing"], "davis2017 is defined over whole sets.*--set"),
        (["--by=category"], "davis2017 names no categories; youtube-vos and youtube-objects do"),
        (["--meta=x"], "--meta does not go with --protocol davis2017"),
        (["--average=frames"], "davis2017 can average over no other"),
        (["--temporal=all"], "T is a measure of davis2016"),
        (["--set=tset"], "no such list of sequences.*val"),
        (["--workers=0"], "workers"),
        (["--pred=nowhere"], "nowhere: no such folder of results"),
        (["--gt=nowhere"], "nowhere"),
        (["--protocol=davis"], "should be one of"),
        (["stray"], "unexpected arguments"),
    ],
)
def test_wrong_flags_are_refused_with_the_fix(tree, tmp_path, flags, message):
    with pytest.raises(SystemExit, match=message):
        run(*tree, tmp_path / "out", *flags)


def write_results(videos, pred, change=lambda labels: labels):
    """Every annotated mask, changed, as a result."""
    for video in videos:
        (pred / video.name).mkdir(parents=True)
        for t in np.flatnonzero(video.annotated):
            name = pred / video.name / f"{video.frame_names[t]}.png"
            write_mask(name, change(video.mask(t)))
    return pred


def without(object_id):
    return lambda labels: np.where(labels == object_id, 0, labels)


def test_youtube_vos_scores_seen_and_unseen_objects_after_their_first_frame(tmp_path):
    root = youtube_tree(tmp_path / "data")
    pred = write_results(open_youtube_vos(root, "train"), tmp_path / "pred", without(7))
    (tmp_path / "seen.txt").write_text("penguin\n")
    shutil.rmtree(root / "train/JPEGImages")  # scoring reads masks alone
    meta = (root / "train/meta.json").rename(tmp_path / "other.json")
    flags = ("--set=train", f"--seen={tmp_path / 'seen.txt'}", f"--meta={meta}", "--by=category")
    found = run(root, pred, tmp_path / "out", *flags, protocol="youtube-vos")
    expected = {"G": 0.5, "J_s": 1, "J_u": 0, "F_s": 1, "F_u": 0}
    assert {name: found["metrics"][name] for name in expected} == expected
    frames = {name: facts["frames"] for name, facts in found["per_object"].items()}
    assert frames == {"0a1b_2": 2, "0a1b_7": 1}
    assert found["per_object"]["0a1b_7"]["category"] == "dog"


@pytest.mark.parametrize("kind", ["meta.json", "list.json"])
def test_the_split_folder_itself_and_other_lists_of_seen_categories_will_do(tmp_path, kind):
    root = youtube_tree(tmp_path / "data")
    pred = write_results(open_youtube_vos(root, "train"), tmp_path / "pred", without(7))
    seen = root / "train/meta.json"
    if kind == "list.json":
        (seen := tmp_path / kind).write_text(json.dumps(["dog"]))
    flags = (f"--seen={seen}",)
    found = run(root / "train", pred, tmp_path / "out", *flags, protocol="youtube-vos")["metrics"]
    expected = (0.5, None) if kind == "meta.json" else (0, 1)  # (J_s, J_u)
    assert (found["J_s"], found["J_u"]) == expected


def test_seen_categories_that_no_video_has_are_refused_or_told(tmp_path, capsys):
    root = youtube_tree(tmp_path / "data")
    pred = write_results(open_youtube_vos(root, "train"), tmp_path / "pred", without(7))
    (tmp_path / "seen.txt").write_text("\ufeffDog\nCat\n", encoding="utf-8")
    flags = ("--set=train", f"--seen={tmp_path}/seen.txt")
    with pytest.raises(SystemExit, match="2 of 2 seen categories occur in no video: Cat, Dog"):
        run(root, pred, tmp_path / "out", *flags, protocol="youtube-vos")
    (tmp_path / "seen.txt").write_text("dog\nPenguin\n")
    found = run(root, pred, tmp_path / "out", *flags, protocol="youtube-vos")["metrics"]
    assert (found["J_s"], found["J_u"]) == (0, 1)
    said = capsys.readouterr().err
    assert "1 of 2 seen categories occur in no video: Penguin; is 'Penguin' what is called" in said


def test_withheld_masks_cannot_be_scored(tmp_path):
    root = youtube_tree(tmp_path / "data", "valid")
    pred = write_results(open_youtube_vos(root, "valid"), tmp_path / "pred")
    (root / "valid/Annotations/0a1b/00010.png").unlink()
    with pytest.raises(SystemExit, match="no frame of set 'valid' can be scored.*vos_jax.package"):
        run(root, pred, tmp_path / "out", protocol="youtube-vos")


def test_fbms_scores_annotated_frames_with_all_objects_as_one(tmp_path):
    root = fbms_tree(tmp_path / "data", values=(0xFFFFFF, 0xFF00FF, 0x00FFFF))
    fbms_tree(root, name="dogs01", annotated=(2,))
    videos = open_fbms(root, "test")
    pred = write_results(videos, tmp_path / "pred", lambda labels: labels * np.uint8(255))
    write_mask(pred / "dogs01/dogs01_0003.png", videos[1].mask(2) * 0)
    found = run(root, pred, tmp_path / "out", protocol="fbms")
    assert found["metrics"] == {"J-Mean": 0.5, "J-Recall": 0.5, "J-Decay": 0.0}
    found = run(root, pred, tmp_path / "frames", "--average=frames", protocol="fbms")
    assert found["metrics"] == {"J-Mean": 0.75, "J-Recall": 0.75}


def test_youtube_objects_averages_categories_and_leaves_single_frames_out(tmp_path):
    shots = [(category, "0001", "001") for category in CATEGORIES]
    root = youtube_objects_tree(tmp_path / "data", [*shots, ("cow", "0002", "001")])
    youtube_objects_tree(root, [("cow", "0019", "001")], length=5)  # one annotated frame
    pred = write_results(open_youtube_objects(root), tmp_path / "pred")
    for file in (pred / "cow/0002/001").iterdir():
        write_mask(file, np.zeros_like(read_mask(file)))
    found = run(root, pred, tmp_path / "out", protocol="youtube-objects")
    assert found["metrics"]["J-Mean"] == pytest.approx((9 + 0.5) / 10)
    assert found["settings"]["objects_left_out"] == 1
    flags = ("--average=sequences",)
    found = run(root, pred, tmp_path / "sequences", *flags, protocol="youtube-objects")
    assert found["metrics"]["J-Mean"] == pytest.approx(10 / 11)


def test_segtrack_counts_wrong_pixels_and_leaves_out_the_first_frame(tmp_path):
    root = segtrack_tree(tmp_path / "data")
    videos = open_segtrack(root)
    pred = write_results(videos, tmp_path / "pred", without(2))
    found = run(root, pred, tmp_path / "out", protocol="segtrack")
    assert found["per_object"]["bmx_2"]["J-Mean"] == 0
    assert found["per_object"]["frog_1"] == {
        "J-Mean": 1, "J-Recall": 1, "J-Decay": 0, "E-Mean": 0, "frames": 3
    }  # fmt: skip
    area = np.mean([np.count_nonzero(videos[0].mask(t) == 2) for t in (1, 2, 3)])
    assert found["per_object"]["bmx_2"]["E-Mean"] == area


def test_missing_results_are_left_out_where_the_protocol_permits_it(tmp_path, capsys):
    root = segtrack_tree(tmp_path / "data")
    pred = write_results(open_segtrack(root), tmp_path / "pred")
    shutil.rmtree(pred / "bmx")
    (pred / "frog/frog_00002.png").unlink()
    with pytest.raises(SystemExit, match="expected a folder for each of 2 sequences"):
        run(root, pred, tmp_path / "out", protocol="segtrack")
    found = run(root, pred, tmp_path / "out", "--allow-missing", protocol="segtrack")
    assert found["metrics"]["J-Mean"] == pytest.approx(2 / 3)  # the missing frame counts as empty
    assert found["settings"]["sequences_missing"] == 1
    assert "1 sequences without results were left out" in capsys.readouterr().out
