"""What doctor looks at, and what it says where something is wrong."""

import importlib.metadata
import shutil
import sys
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from tests.data.trees import davis_tree
from vos_jax import doctor


@pytest.fixture
def healthy(monkeypatch, tmp_path):
    """Calls the command where the self-test is well, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(doctor, "self_test", lambda: "self-test: well")
    return lambda *arguments: doctor.main(["doctor", *arguments])


def test_the_self_test_segments_a_clip():
    assert doctor.self_test().startswith("self-test: 3 frames segmented as they should be, ")


def test_the_last_line_says_that_all_is_well(healthy, tmp_path, capsys):
    healthy("--data", str(davis_tree(tmp_path / "a")), f"--data={davis_tree(tmp_path / 'b')}")
    lines = capsys.readouterr().out.splitlines()
    begin = (
        "vos_jax ",
        "1 process, ",
        "compiled programs ",
        *2 * ["data "],
        "workdir runs",
        "self-",
    )
    assert all(line.startswith(word) for line, word in zip(lines, begin, strict=False))
    assert lines[-1] == "all is well" and len(lines) == 8
    assert "DAVIS: 2 sequences (2017/train 2), 10 frames" in lines[3]
    assert f"jax {jax.__version__}" in lines[0] and not (tmp_path / "runs").exists()


def test_quiet_leaves_the_last_line(healthy, capsys):
    healthy("--quiet")
    assert capsys.readouterr().out == "all is well\n"


def test_all_that_is_wrong_is_told_at_the_end_with_the_fix(healthy, tmp_path, capsys):
    root = davis_tree(tmp_path / "data")
    (root / "Annotations/480p/bear/00001.png").write_bytes(b"")
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(SystemExit) as stop:
        healthy("--data", str(root), "--workdir", str(file / "runs"))
    told = str(stop.value.code)
    assert told.startswith("error: 2 of 6 checks failed:\n") and len(told.splitlines()) == 3
    assert "00001.png: the file is empty" in told and f"data-check {root} lists all" in told
    assert "cannot be written to" in told
    assert capsys.readouterr().out.count("WRONG: ") == 2


def test_missing_packages_and_another_python_are_told_with_the_command(monkeypatch):
    def version(name):
        if name in ("optax", "tensorflow-cpu", "tensorflow"):
            raise importlib.metadata.PackageNotFoundError(name)
        return "1.0"

    monkeypatch.setattr(importlib.metadata, "version", version)
    with pytest.raises(doctor.Wrong, match="pip install optax tensorflow-cpu$"):
        doctor.versions()
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "1.0")
    monkeypatch.setattr(sys, "version_info", (3, 9, 1))
    with pytest.raises(doctor.Wrong, match=r"expected Python 3\.11 to 3\.13"):
        doctor.versions()


def test_devices_that_are_not_there_and_those_that_go_unused_are_told(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/nvidia-smi")
    if jax.default_backend() == "cpu":
        assert doctor.devices().endswith("JAX sees no GPU: pip install 'jax[cuda13]'")

    def none(config):
        raise RuntimeError("Unknown backend cuda\nmore")

    monkeypatch.setattr(doctor, "devices_line", none)
    with pytest.raises(doctor.Wrong, match="finds no device: Unknown backend cuda; unset JAX_PLA"):
        doctor.devices()


def test_a_full_disk_is_told(monkeypatch, tmp_path):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=1e8))
    with pytest.raises(doctor.Wrong, match="0.1 GB free; make room for checkpoints"):
        doctor.workdir(str(tmp_path / "new/run"))
    assert list(tmp_path.iterdir()) == []


def test_a_machine_that_computes_wrongly_is_told(monkeypatch):
    class Broken:
        def __init__(self, *_):
            pass

        def step(self, frame, mask=None):
            return np.full(frame.shape[:2], 77, np.uint8)

    monkeypatch.setattr(doctor, "VideoSegmenter", Broken)
    monkeypatch.setattr(doctor, "init_variables", lambda *_: {})
    with pytest.raises(doctor.Wrong, match=r"frame 0 has a mask uint8 .* ids \[77\], expected"):
        doctor.self_test()
