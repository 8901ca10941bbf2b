"""The README's Python runs as it is written there."""

import re
from pathlib import Path

import numpy as np

from tests.tiny import tiny_section
from vos_jax.checkpoint_folder import export_variables

README = Path(__file__).parents[1] / "README.md"
EXAMPLES = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)


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
