import jax
import pytest

from vos_jax.compilation_cache import keep_compiled_programs


@pytest.fixture
def folder(monkeypatch):
    """folder(home, given, enabled): where JAX keeps programs after the call."""
    names = ("jax_compilation_cache_dir", "jax_enable_compilation_cache")
    before = {name: getattr(jax.config, name) for name in names}

    def kept(home, given=None, enabled=True):
        monkeypatch.setenv("HOME", str(home))
        for name, value in zip(names, (given, enabled), strict=True):
            jax.config.update(name, value)
        keep_compiled_programs()
        return jax.config.jax_compilation_cache_dir

    yield kept
    for name, value in before.items():
        jax.config.update(name, value)


def test_programs_are_kept_in_the_home_folder(folder, tmp_path, capsys):
    expected = tmp_path / ".cache/vos_jax"
    assert folder(tmp_path) == str(expected)
    assert expected.is_dir() and not list(expected.iterdir())
    assert capsys.readouterr().err == ""


def test_a_folder_that_is_given_wins(folder, tmp_path):
    assert folder(tmp_path, given="elsewhere") == "elsewhere"
    assert not list(tmp_path.iterdir())


def test_what_is_turned_off_stays_off(folder, tmp_path):
    assert folder(tmp_path, enabled=False) is None
    assert not list(tmp_path.iterdir())


def test_a_home_that_cannot_be_written_to_is_told_in_a_line(folder, tmp_path, capsys):
    (tmp_path / "home").touch()
    assert folder(tmp_path / "home") is None
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("note: compiled programs are not kept: ")
    assert f"{tmp_path}/home/.cache" in line and "JAX_COMPILATION_CACHE_DIR=DIR" in line
