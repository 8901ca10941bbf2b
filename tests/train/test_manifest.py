import json
import re
import subprocess
import sys

import jax

from tests.train.toy import toy_config
from vos_jax.train import manifest
from vos_jax.train.manifest import build_manifest, git_revision


def test_manifest_is_json_and_says_what_ran_where(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/some/where/vos_jax/main.py", "--config", "c.py:quick"])
    found = json.loads(json.dumps(build_manifest(toy_config())))
    assert found["command"] == ["python", "-m", "vos_jax.main", "--config", "c.py:quick"]
    assert found["config"]["optim"]["momentum"] == 0.9
    assert found["packages"]["jax"] == jax.__version__
    assert (found["devices"], found["processes"]) == (len(jax.devices()), 1)
    assert found["platform"] == jax.default_backend()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", found["started"])


def test_no_git_is_tolerated(monkeypatch):
    def absent(*args, **kwargs):
        raise FileNotFoundError("git")

    monkeypatch.setattr(manifest.subprocess, "run", absent)
    assert git_revision() is None


def test_no_repository_gives_none(monkeypatch):
    failed = subprocess.CompletedProcess([], 128, stdout="", stderr="not a git repository")
    monkeypatch.setattr(manifest.subprocess, "run", lambda *a, **k: failed)
    assert git_revision() is None


def test_the_installed_command_is_kept_as_it_was_typed(monkeypatch):
    monkeypatch.setattr("sys.argv", ["/env/bin/vos-jax", "train", "--config", "feelvos"])
    command = build_manifest({})["command"]
    assert command == ["vos-jax", "train", "--config", "feelvos"]
