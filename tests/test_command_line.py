"""Flags and --config as all commands read them."""

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
from absl import flags

from vos_jax.command_line import (
    carried_configs,
    config_folder,
    find_config,
    flag,
    new_flags,
    parse_flags,
    run_command,
)


def parsed(*arguments):
    argv = ["command", *arguments]
    values = new_flags(argv)
    parse_flags(values, argv)
    return values


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """An empty folder that the command is called from."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("typed", ["feelvos", "feelvos.py", "configs/feelvos.py"])
@pytest.mark.parametrize("preset", ["", ":paper"])
def test_a_carried_config_is_found_by_its_name_whatever_the_folder(elsewhere, typed, preset):
    assert find_config(typed + preset) == f"{config_folder() / 'feelvos.py'}{preset}"


@pytest.mark.parametrize("typed", ["sweeps/stm", "configs/sweeps/stm.py"])
def test_a_carried_sweep_is_found_by_its_folder_and_name(elsewhere, typed):
    found = f"{config_folder() / 'sweeps/stm.py'}:width_0.5"
    assert find_config(f"{typed}:width_0.5") == found


@pytest.mark.parametrize("typed", ["mine/feelvos.py", "/somewhere/configs/feelvos.py:small"])
def test_a_mistyped_path_of_an_own_file_is_not_taken_for_a_carried_config(elsewhere, typed):
    with pytest.raises(ValueError, match="there is no file .*did you mean 'feelvos'"):
        find_config(typed)


@pytest.mark.parametrize("typed", ["feelvos", "feelvos.py", "./feelvos.py:small", "mine.py"])
def test_a_file_that_exists_comes_before_a_carried_config(elsewhere, typed):
    (elsewhere / typed.partition(":")[0]).touch()
    assert find_config(typed) == typed


def test_a_folder_of_its_name_does_not_hide_a_carried_config(elsewhere):
    (elsewhere / "feelvos").mkdir()
    assert find_config("feelvos") == str(config_folder() / "feelvos.py")


@pytest.mark.parametrize(
    ("typed", "near"), [("feelvo:paper", "feelvos"), ("c/cfbiplus.py", "cfbi_plus"), ("x", None)]
)
def test_an_unknown_config_is_refused_with_the_known_ones_and_the_nearest(elsewhere, typed, near):
    path = typed.partition(":")[0]
    known = ", ".join(carried_configs())
    ending = f"; did you mean '{near}'?" if near else ""
    with pytest.raises(flags.Error) as refused:
        parsed(f"--config={typed}")
    assert str(refused.value).endswith(
        f"there is no file '{path}'; by their names vos_jax carries {known}{ending}"
    )


@pytest.mark.parametrize("spelled", [["--config", "feelvos:small"], ["--config=feelvos:small"]])
def test_fields_of_a_carried_config_are_overridden(elsewhere, spelled):
    config = parsed(*spelled, "--config.train.steps=2", "--config.model.short_side", "64").config
    assert (config.train.steps, config.model.short_side) == (2, 64)
    assert config.model.backbone == "mobilenet_v2"  # of the preset


def test_a_field_without_a_config_is_told_what_it_belongs_to():
    with pytest.raises(flags.Error, match=r"--config.inference.flip changes a field of --config"):
        parsed("--config.inference.flip=True")


def test_a_flag_is_what_its_default_is():
    values = new_flags()
    flag(values, "text", None, "a text")
    flag(values, "switch", False, "a switch")
    flag(values, "count", 1, "a count", at_least=1)
    flag(values, "one", "a", "one of them", choices=("a", "b"))
    parse_flags(values, ["command", "--text=5", "--switch", "--count=3", "--one=b"])
    assert [values[name].value for name in ("text", "switch", "count", "one")] == [
        "5",
        True,
        3,
        "b",
    ]
    assert "one of them: a, b" in values.get_help()
    for wrong in ("--count=0", "--count=x", "--one=c", "--switch=5"):
        with pytest.raises(flags.Error, match=wrong[2:].partition("=")[0]):
            parse_flags(values, ["command", wrong])


CONFIGS = {
    "imports what is not there": ("import nowhere\n", r"own\.py, line 1: ModuleNotFoundError"),
    "is cut off": ("def get_config(:\n", r"own\.py, line 1: SyntaxError"),
    "raises": ("def get_config():\n    x = 1\n    return x / 0\n", r"own\.py, line 3: ZeroDiv"),
    "refuses": (
        "def get_config():\n    raise ValueError('no such')\n",
        r"own\.py, line 2: no such",
    ),
    "returns a dict": ("def get_config():\n    return {}\n", "returned dict, expected an ml_col"),
    "returns nothing": ("def get_config():\n    pass\n", "returned NoneType, expected"),
    "has no function": ("x = 1\n", r"own\.py: has no function get_config"),
    "ends the process": ("raise SystemExit(0)\n", r"own\.py: ended the process itself"),
    "takes the old place": ("from configs.feelvos import x\n", "are modules of vos_jax.configs"),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_file_that_fails_is_told_with_its_line(elsewhere, monkeypatch, name):
    text, message = CONFIGS[name]
    (elsewhere / "own.py").write_text(text)
    monkeypatch.setitem(sys.modules, "configs", None)
    monkeypatch.delitem(sys.modules, "config_config", raising=False)  # of the case before
    with pytest.raises(flags.Error, match=message) as refused:
        parsed("--config=own.py")
    assert len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("raised", "code", "said"),
    [
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (MemoryError("of 9 GB"), "error: out of memory (of 9 GB)", ""),
        (ValueError("no"), "error: no", ""),
    ],
)
def test_what_ends_a_command_is_told_without_a_traceback(raised, code, said, capsys):
    def run(values):
        raise raised

    with pytest.raises(SystemExit) as stop:
        run_command(
            ["c"], "what it does", lambda argv: SimpleNamespace(help=False, quiet=False), run
        )
    assert str(stop.value.code).startswith(str(code)) and capsys.readouterr().err == said


def test_a_fault_of_ours_keeps_its_traceback():
    def run(values):
        raise TypeError("ours")

    with pytest.raises(TypeError, match="ours"):
        run_command(["c"], "", lambda argv: SimpleNamespace(help=False, quiet=False), run)


@pytest.mark.parametrize("platform", ["cuda", "cpus"])
def test_devices_that_are_not_there_are_told_in_one_line(platform):
    environment = dict(os.environ, JAX_PLATFORMS=platform)
    run = (
        "import jax; from types import SimpleNamespace as N; from vos_jax.command_line import *;"
        "run_command(['c'], '', lambda argv: N(help=False, quiet=False),"
        " lambda values: jax.numpy.ones(1))"
    )
    command = [sys.executable, "-c", run]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 1 and len(done.stderr.strip().splitlines()) == 1
    assert done.stderr.startswith(f"error: JAX_PLATFORMS={platform}: ")


def test_a_value_may_stand_without_the_name_of_its_flag_where_the_command_says_so():
    def parsed_folder(*arguments):
        values = new_flags()
        flag(values, "folder", None, "a folder")
        parse_flags(values, ["command", *arguments], ("folder",), positional="folder")
        return values.folder, values.quiet

    assert parsed_folder("here") == ("here", False)
    assert parsed_folder("here", "--quiet") == parsed_folder("--quiet", "here") == ("here", True)
    assert parsed_folder("--folder=here") == ("here", False)
    for wrong in (["a", "b"], ["a", "--folder=b"]):
        with pytest.raises(flags.Error, match="unexpected arguments"):
            parsed_folder(*wrong)
    with pytest.raises(flags.Error, match="missing --folder"):
        parsed_folder()
