"""The command vos-jax: its verbs, their examples, and how it ends."""

import contextlib
import importlib
import os
import re
import shlex
import sys
import tomllib
from pathlib import Path

import pytest

from vos_jax import cli

PARSED = [name for name in cli.VERBS if name != "benchmark"]  # whose modules have `parse`


def module(name):
    return importlib.import_module(f"vos_jax.{cli.VERBS[name].module}")


def test_the_script_of_the_package_is_this_command():
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    assert project["scripts"] == {"vos-jax": "vos_jax.cli:script"}


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"], ["help"]])
def test_help_is_one_screen_with_every_verb(words, capsys):
    cli.main(["vos-jax", *words])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 30 and max(map(len, lines)) <= 100
    for name, verb in cli.VERBS.items():
        assert any(line.split()[:1] == [name] and verb.meaning in line for line in lines)


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("segmant", "did you mean 'segment'?"),
        ("data_chek", "did you mean 'data-check'?"),
        ("xyz", "there is no verb 'xyz': train, evaluate, "),
    ],
)
def test_a_mistyped_verb_is_refused_with_the_nearest(typed, said):
    with pytest.raises(SystemExit) as stop:
        cli.main(["vos-jax", typed])
    message = str(stop.value.code)
    assert message.startswith("error: ") and said in message and len(message.splitlines()) == 1


@pytest.mark.parametrize("name", cli.VERBS)
def test_a_verb_calls_the_main_of_its_module_with_its_flags_before_the_users(name, monkeypatch):
    calls = []
    monkeypatch.setattr(module(name), "main", calls.append)
    cli.main(["vos-jax", name.replace("-", "_"), "--flag", "value"])
    verb = cli.VERBS[name]
    begin = [f"vos-jax {name}"] if verb.named else []
    assert calls == [[*begin, *verb.first, "--flag", "value"]]


def test_the_script_takes_the_arguments_of_the_process(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["/somewhere/vos-jax", "--version"])
    cli.script()
    assert re.fullmatch(r"\d+\.\d+\.\d+\n", capsys.readouterr().out)


def examples(name):
    """The words of the examples in a verb's --help after `vos-jax`."""
    found = re.findall(r"^Example: vos-jax (.*)$", module(name).__doc__, re.MULTILINE)
    return [words for words in map(shlex.split, found) if words[0] == name]


@pytest.mark.parametrize("name", PARSED)
def test_help_shows_an_example_that_the_verb_understands(name, capsys):
    cli.main(["vos-jax", name, "--help"])
    shown = capsys.readouterr().out
    assert "--[no]quiet" in shown
    found = examples(name)
    assert found
    for words in found:
        assert f"Example: vos-jax {shlex.join(words)}" in shown
        module(name).parse([f"vos-jax {name}", *cli.VERBS[name].first, *words[1:]])


def test_the_mode_of_a_verb_gives_way_to_the_users():
    args = module("train").parse(["c", "--mode=train", "--config=feelvos", "--mode=train_and_eval"])
    assert args.mode == "train_and_eval"


def test_a_wrong_argument_of_benchmark_ends_as_in_the_other_verbs(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["vos-jax", "benchmark", "nothing"])
    said = capsys.readouterr().err
    assert stop.value.code == 1 and len(said.splitlines()) == 1
    assert said.startswith("error: ") and "invalid choice: 'nothing'" in said


def test_an_interrupt_while_a_verb_is_imported_ends_as_later(monkeypatch, capsys):
    def interrupted(name):
        raise KeyboardInterrupt

    monkeypatch.setattr(importlib, "import_module", interrupted)
    with pytest.raises(SystemExit) as stop:
        cli.main(["vos-jax", "segment"])
    assert stop.value.code == 130 and capsys.readouterr().err == "interrupted\n"


def test_the_script_ends_at_once_when_it_is_interrupted_and_only_then(monkeypatch):
    ends = []
    monkeypatch.setattr(os, "_exit", ends.append)
    for code in (130, "error: wrong"):
        monkeypatch.setattr(cli, "main", lambda argv, code=code: sys.exit(code))
        with contextlib.suppress(SystemExit):
            cli.script()
    assert ends == [130]
