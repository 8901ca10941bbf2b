"""The package command: folder of masks in, zip out, and its errors."""

import subprocess
import sys
import zipfile

import pytest

from tests.inference.results import davis_results, youtube_results
from vos_jax import package as command


def run(*arguments):
    command.main(["package", *map(str, arguments)])


def test_zip_is_written_and_summed_up(tmp_path, capsys):
    data, pred = davis_results(tmp_path)
    out = tmp_path / "a.zip"
    run("--benchmark=davis2017-test-dev", f"--pred={pred}", f"--out={out}", f"--data={data}")
    printed = capsys.readouterr().out
    assert "davis2017-test-dev: 2 sequences, 10 frames" in printed and str(out) in printed
    assert len(zipfile.ZipFile(out).namelist()) == 10


def test_youtube_split_and_the_root_from_the_environment(tmp_path, monkeypatch):
    data, pred = youtube_results(tmp_path, "test")
    monkeypatch.setenv("VOS_JAX_DATA_DIR", str(data))
    arguments = ["--benchmark=youtube-vos", f"--pred={pred}", f"--out={tmp_path}/a.zip"]
    with pytest.raises(SystemExit, match="valid: no such folder"):
        run(*arguments)
    run(*arguments, "--split=test")
    assert len(zipfile.ZipFile(tmp_path / "a.zip").namelist()) == 3


def test_refusal_is_the_commands_error_and_its_exit_status(tmp_path):
    data, pred = davis_results(tmp_path)
    (pred / "bear/00003.png").unlink()
    arguments = ["--benchmark=davis2017-test-dev", f"--pred={pred}", f"--data={data}"]
    done = subprocess.run(
        [sys.executable, "-m", "vos_jax.package", *arguments, f"--out={tmp_path}/a.zip"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and done.stdout == ""
    assert f"error: {pred} is not ready: 1 problem" in done.stderr
    assert "Traceback" not in done.stderr and not (tmp_path / "a.zip").exists()


def test_existing_zip_needs_overwrite(tmp_path):
    data, pred = davis_results(tmp_path)
    arguments = ["--benchmark=davis2017-test-dev", f"--pred={pred}", f"--data={data}"]
    run(*arguments, f"--out={tmp_path}/a.zip")
    with pytest.raises(SystemExit, match=r"error: .*a\.zip exists; .*--overwrite"):
        run(*arguments, f"--out={tmp_path}/a.zip")
    run(*arguments, f"--out={tmp_path}/a.zip", "--overwrite")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--benchmark=davis2017-val", "davis2017-val.*davis2017-test-dev"),
        ("--benchmark=youtube-vos --out=a", "missing --pred, --data"),
        (
            "--benchmark=youtube-vos --prde=a",
            "Unknown command line flag 'prde'. Did you mean: pred",
        ),
        ("a.zip", "unexpected arguments"),
        (
            "--benchmark=davis2017-test-dev --pred=a --out=b --data=c --split=test",
            "--split goes with youtube-vos",
        ),
        (
            "--benchmark=davis2017-test-dev --pred=a --out=b --data=nowhere",
            "nowhere: no such folder; a DAVIS root holds",
        ),
    ],
)
def test_wrong_command_line_ends_with_one_readable_line(arguments, message, monkeypatch):
    monkeypatch.delenv("VOS_JAX_DATA_DIR", raising=False)
    with pytest.raises(SystemExit, match=message):
        run(*arguments.split(" "))


def test_help_lists_the_flags(capsys):
    run("--help")
    printed = capsys.readouterr().out
    for name in ("benchmark", "pred", "out", "data", "split", "meta", "overwrite"):
        assert f"--{name}" in printed or f"--[no]{name}" in printed
