"""Lines and bars beside results, and quiet."""

import io
import sys

import pytest

from vos_jax.notes import note, progress_bar, quiet


class Terminal(io.StringIO):
    def isatty(self):
        return True


def shown_on(stream, monkeypatch, **options):
    monkeypatch.setattr(sys, "stderr", stream)
    assert list(progress_bar(range(3), desc="work", **options)) == [0, 1, 2]
    return stream.getvalue()


def test_a_bar_shows_on_a_terminal_and_only_there(monkeypatch):
    assert "work: 100%" in shown_on(Terminal(), monkeypatch)
    assert shown_on(io.StringIO(), monkeypatch) == ""
    assert shown_on(Terminal(), monkeypatch, shown=False) == ""


def test_quiet_shows_neither_bars_nor_notes_until_it_ends(monkeypatch, capsys):
    with quiet():
        note("hidden")
        with quiet(False):  # of a command that another one calls
            assert shown_on(Terminal(), monkeypatch) == ""
    monkeypatch.undo()
    note("shown")
    assert capsys.readouterr().err == "note: shown\n"
    with pytest.raises(ValueError), quiet():
        raise ValueError
    note("again")
    assert capsys.readouterr().err == "note: again\n"
