"""Files are written whole or not at all, and no output is an input."""

import errno
import os

import pytest

from vos_jax.files import keep_apart, whole_file, write_whole


def test_a_file_is_there_only_when_all_of_it_is(tmp_path):
    path = tmp_path / "a.txt"
    with whole_file(path) as file:
        file.write(b"half")
        assert not path.exists()
    assert path.read_bytes() == b"half" and os.listdir(tmp_path) == ["a.txt"]
    write_whole(path, b"other")
    assert path.read_bytes() == b"other"


@pytest.mark.parametrize("failure", [ValueError("ours"), KeyboardInterrupt()])
def test_what_was_there_stays_where_writing_fails(tmp_path, failure):
    path = tmp_path / "a.txt"
    path.write_bytes(b"before")
    with pytest.raises(type(failure)), whole_file(path) as file:
        file.write(b"half")
        raise failure
    assert path.read_bytes() == b"before" and os.listdir(tmp_path) == ["a.txt"]


def test_a_full_disk_and_a_missing_folder_are_told_with_the_files_own_name(tmp_path):
    path = tmp_path / "a.txt"
    with pytest.raises(OSError, match=rf"No space left.*{path}'"), whole_file(path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert os.listdir(tmp_path) == []
    with pytest.raises(FileNotFoundError, match="nowhere/a.txt'"):
        write_whole(tmp_path / "nowhere/a.txt", b"-")


def test_files_get_the_permissions_of_new_files(tmp_path):
    write_whole(tmp_path / "a", b"-")
    (tmp_path / "b").write_bytes(b"-")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode


def test_outputs_keep_apart_from_inputs_and_from_each_other(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    (tmp_path / "in/mask.png").touch()
    (tmp_path / "link").symlink_to("in")
    keep_apart({"--a": "in"}, {"--out": "in/out", "--b": "b", "--none": None})
    keep_apart({"--a": "gs://x/in"}, {"--out": "gs://x/out"})
    for place in ("in", "./in/", "link", "out/../in", str(tmp_path / "in")):
        with pytest.raises(ValueError, match=r"--out .* is --a in, which would be overwritten"):
            keep_apart({"--a": "in"}, {"--out": place})
    with pytest.raises(ValueError, match=r"--out in is the folder of --mask in/mask\.png"):
        keep_apart({"--mask": "in/mask.png"}, {"--out": "in"})
    with pytest.raises(ValueError, match=r"--b x/ is --out x, which"):
        keep_apart({}, {"--out": "x", "--b": "x/"})
    with pytest.raises(ValueError, match="--out gs://x/in/ is --a gs://x/in"):
        keep_apart({"--a": "gs://x/in"}, {"--out": "gs://x/in/"})
