import json
import zipfile

import cv2
import numpy as np
import pytest
from PIL import Image

from tests.data.trees import SIZE, labels
from tests.inference.results import davis_results, write_masks, youtube_results
from vos_jax.data.masks import davis_palette
from vos_jax.inference import submission
from vos_jax.inference.submission import expected_sequences, write_submission

DAVIS, YOUTUBE = "davis2017-test-dev", "youtube-vos"


def write(server, data, pred, out, **options):
    expected = expected_sequences(server, data)
    return write_submission(server, pred, out, expected, **options)


def test_davis_zip_has_the_sequences_at_its_top_and_the_same_bytes(tmp_path):
    data, pred = davis_results(tmp_path)
    done = write(DAVIS, data, pred, tmp_path / "new/a.zip")
    with zipfile.ZipFile(tmp_path / "new/a.zip") as archive:
        names = archive.namelist()
        assert names == [f"{name}/{t:05d}.png" for name in ("bear", "dog") for t in range(5)]
        for name in names:
            assert archive.read(name) == (pred / name).read_bytes()
    assert done.names == names
    assert "2 sequences, 10 frames" in done.report()
    assert "copied as they are: 10 masks" in done.report()


def test_test_challenge_has_its_own_list(tmp_path):
    data, pred = davis_results(tmp_path, "test-challenge")
    with pytest.raises(FileNotFoundError, match="test-dev.txt"):
        expected_sequences(DAVIS, data)
    assert len(write("davis2017-test-challenge", data, pred, tmp_path / "a.zip").names) == 10


def test_youtube_zip_has_one_folder_with_the_listed_frames(tmp_path):
    data, pred = youtube_results(tmp_path)
    write_masks(pred / "0a1b", {t: labels(t, (99,)) for t in (1, 2)})  # unlisted: not looked at
    (pred / "0a1b/notes.txt").write_text("")
    done = write(YOUTUBE, data, pred, tmp_path / "a.zip")
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert archive.namelist() == [f"Annotations/0a1b/{t:05d}.png" for t in (0, 5, 10)]
    assert "left out: 2 masks of frames that are not scored, 1 other files" in done.report()


def test_youtube_frames_are_those_listed_not_those_with_a_mask(tmp_path):
    data, _ = youtube_results(tmp_path)
    meta = json.loads((data / "valid/meta.json").read_text())
    objects = meta["videos"]["0a1b"]["objects"]
    objects["2"]["frames"], objects["7"]["frames"] = ["00005", "00003"], ["00005", "00007"]
    (data / "valid/meta.json").write_text(json.dumps(meta))
    (data / "valid/Annotations/0a1b/00005.png").rename(data / "valid/Annotations/0a1b/00003.png")
    write_masks(data / "valid/Annotations/0a1b", {5: labels(5, (2, 7))})
    (one,) = expected_sequences(YOUTUBE, data)
    assert one.frames == ("00003", "00005", "00007") and one.size == SIZE
    assert one.first == {2: 0, 7: 1}


def test_another_meta_json_decides_when_given(tmp_path, monkeypatch):
    data, _ = youtube_results(tmp_path)
    meta = json.loads((data / "valid/meta.json").read_text())
    del meta["videos"]["0a1b"]["objects"]["2"]
    (tmp_path / "other.json").write_text(json.dumps(meta))
    monkeypatch.chdir(tmp_path)
    (one,) = expected_sequences(YOUTUBE, "data", meta="other.json")
    assert one.first == {7: 0} and one.frames == ("00005", "00010")


def test_grey_masks_and_other_palettes_are_written_anew_in_davis_colours(tmp_path):
    data, pred = davis_results(tmp_path)
    cv2.imwrite(str(pred / "bear/00001.png"), labels(1))
    foreign = Image.fromarray(labels(2))
    foreign.putpalette(bytes(range(256)) * 3)
    foreign.save(pred / "bear/00002.png")
    done = write(DAVIS, data, pred, tmp_path / "a.zip")
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        for t in (1, 2):
            image = Image.open(archive.open(f"bear/{t:05d}.png"))
            assert image.mode == "P" and (np.asarray(image) == labels(t)).all()
            assert image.getpalette() == davis_palette().ravel().tolist()
    assert "copied as they are: 8 masks" in done.report()
    assert "2 masks (1 grey, 1 with other colours)" in done.report()


def test_equal_masks_give_equal_zips_whatever_their_dates_and_order(tmp_path):
    data, pred = davis_results(tmp_path / "one")
    write(DAVIS, data, pred, tmp_path / "a.zip")
    again = tmp_path / "two"
    for file in sorted(pred.glob("*/*.png"), reverse=True):
        (again / file.parent.name).mkdir(parents=True, exist_ok=True)
        (again / file.parent.name / file.name).write_bytes(file.read_bytes())
    expected = expected_sequences(DAVIS, data)[::-1]
    write_submission(DAVIS, again, tmp_path / "b.zip", expected)
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()


def test_existing_zip_is_kept_unless_overwriting_is_allowed(tmp_path):
    data, pred = davis_results(tmp_path)
    out = tmp_path / "a.zip"
    out.write_text("precious")
    with pytest.raises(FileExistsError, match=r"a\.zip exists; choose another name"):
        write(DAVIS, data, pred, out)
    assert out.read_text() == "precious"
    write(DAVIS, data, pred, out, overwrite=True)
    assert zipfile.is_zipfile(out)


def test_refused_results_leave_an_existing_zip_as_it_was(tmp_path):
    data, pred = davis_results(tmp_path)
    (pred / "dog/00003.png").unlink()
    (tmp_path / "a.zip").write_text("precious")
    with pytest.raises(ValueError, match="missing: 00003"):
        write(DAVIS, data, pred, tmp_path / "a.zip", overwrite=True)
    assert (tmp_path / "a.zip").read_text() == "precious"


def test_interrupted_or_incomplete_zip_does_not_take_the_place_of_the_target(tmp_path, monkeypatch):
    data, pred = davis_results(tmp_path)
    out = tmp_path / "out/a.zip"
    whole = submission._write_zip
    monkeypatch.setattr(submission, "_write_zip", lambda path, names, _: whole(path, [], iter([])))
    with pytest.raises(ValueError, match="expected 10 files in the zip, found 0"):
        write(DAVIS, data, pred, out)
    monkeypatch.undo()

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(submission, "_content", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write(DAVIS, data, pred, out)
    assert list(out.parent.iterdir()) == []


def test_unknown_server_is_refused_with_the_known_ones(tmp_path):
    with pytest.raises(ValueError, match="davis2017-test-dev, .*, youtube-vos, got 'davis'"):
        expected_sequences("davis", tmp_path)
