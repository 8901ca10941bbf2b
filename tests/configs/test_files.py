"""What holds for every file of configs/."""

import ast
from pathlib import Path

import pytest

FILES = sorted(Path(__file__).parents[2].glob("configs/[!_]*.py"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_config_file_imports_nothing_of_ours_but_vos_jax(file):
    """So that a copy of it works from any folder."""
    tree = ast.parse(file.read_text())
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    imported |= {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    assert {name.split(".")[0] for name in imported} == {"ml_collections", "vos_jax"}
