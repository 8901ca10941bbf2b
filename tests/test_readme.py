"""What README and docs say is there: Python runs, links lead somewhere, commands are known."""

import importlib.util
import re
import shlex
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from tests.tiny import tiny_section
from vos_jax import cli
from vos_jax.checkpoint_folder import export_variables
from vos_jax.convert import BACKBONES, released_systems
from vos_jax.inference.instance_submission import YOUTUBE_VIS
from vos_jax.inference.submission import SERVERS
from vos_jax.metrics.protocols import PROTOCOLS
from vos_jax.metrics.track_tables import PROTOCOL as TRACKS

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = [README, ROOT / "launch" / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
SYSTEM_PAGES = sorted((ROOT / "docs" / "systems").glob("*.md"))
CONFIGS = {  # of pages that are about more than the config of their name
    "cfbi": ("cfbi", "cfbi_plus"),
    "masktrack_rcnn": ("masktrack_rcnn", "mask_rcnn"),
}
MADE = "docs/api/"  # by `make docs`
EXAMPLES = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
PRESET = re.compile(r"quick|small|r?is(_quick)?|images_quick|(paper|ablation)(_\w+)?")


def _name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def _anchors(page: Path) -> set[str]:
    """The headings of a page as GitHub links to them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@cache
def _module(path: Path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _config(name: str):
    return _module(ROOT / "configs" / f"{name}.py")


def test_the_streaming_example_runs(tiny_feelvos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    export_variables("runs/demo", tiny_feelvos[1], {"model": tiny_section("feelvos")}, {})
    names = {}
    exec(EXAMPLES[0], names)  # the README is ours
    assert names["labels"].shape == (96, 160) and names["labels"].dtype == np.uint8
    assert len(EXAMPLES[0].strip().splitlines()) <= 12


def test_the_config_example_adds_a_source():
    names = {}
    exec(EXAMPLES[1], names)
    config = names["get_config"]()
    assert set(config.data.train) == {"davis", "mine"}


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_links_lead_to_files_and_headings(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{target}: there is no {file}"
        assert not anchor or anchor in _anchors(file), f"{target}: {file.name} has no such heading"


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_named_commands_and_files_exist(page):
    text = page.read_text()
    for name in set(re.findall(r"python -m (vos_jax(?:\.\w+)*)", text)):
        assert importlib.util.find_spec(name) is not None, f"there is no module {name}"
    for verb in re.findall(r"vos-jax ([a-z][a-z-]*)", text):
        assert verb in cli.VERBS, f"vos-jax has no verb {verb}"
    for path in re.findall(r"`((?:vos_jax|configs|launch|tests|docs)/[\w/.]+)", text):
        assert (ROOT / path).exists() or path == MADE, f"there is no {path}"


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_presets_that_commands_name_exist(page):
    for name, preset in re.findall(
        r"(?:configs/|--config[ =])(\w+)(?:\.py)?:(\w+)", page.read_text()
    ):
        if (ROOT / "configs" / f"{name}.py").exists():  # else one that the reader writes
            assert preset in _config(name).PRESETS, f"{name} has no preset {preset}"


@pytest.mark.parametrize("page", SYSTEM_PAGES, ids=_name)
def test_presets_and_fields_of_a_system_exist(page):
    configs = [_config(name) for name in CONFIGS.get(page.stem, (page.stem,))]
    presets = {preset for config in configs for preset in config.PRESETS}
    text = page.read_text()
    for preset in re.findall(r"`(\w+)`", text):
        if PRESET.fullmatch(preset):
            assert preset in presets, f"no preset {preset}"
    sections = [
        config.get_config(preset)
        for config in configs
        for preset in {"paper", "rsis", "ris"} & set(config.PRESETS)
    ]
    for section, field in re.findall(r"\b(model|inference|init)\.(?!py\b|ckpt\b)(\w+)", text):
        assert any(field in config[section] for config in sections), f"no {section}.{field}"


@pytest.mark.parametrize("page", SYSTEM_PAGES, ids=_name)
def test_commands_of_a_system_are_understood(page, monkeypatch):
    monkeypatch.chdir(ROOT)
    commands = re.findall(r"^    python -m (vos_jax\.\w+) (.*)$", page.read_text(), re.MULTILINE)
    assert {name for name, _ in commands} >= {"vos_jax.main", "vos_jax.segment"}
    for name, words in commands:
        module = importlib.import_module(name)
        if name != "vos_jax.benchmark":  # which has no `parse`
            module.parse([name, *shlex.split(words)])  # raises flags.Error


def test_pages_name_every_model_protocol_and_benchmark():
    for page, names in {
        "conversion": (*released_systems(), *BACKBONES),
        "protocols": (*PROTOCOLS, TRACKS, *SERVERS, YOUTUBE_VIS),
    }.items():
        text = (ROOT / "docs" / f"{page}.md").read_text()
        assert [name for name in names if f"`{name}`" not in text] == []


@pytest.mark.parametrize("page", SYSTEM_PAGES, ids=_name)
def test_a_system_has_its_figure_as_the_script_draws_it(page):
    draw = _module(ROOT / "docs" / "figures" / "draw.py")
    figure = ROOT / "docs" / "figures" / f"{page.stem}.svg"
    assert f"(../figures/{page.stem}.svg)" in page.read_text()
    assert figure.read_text() == draw.svg(page.stem)
