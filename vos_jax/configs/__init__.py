"""The files of configs/ as vos_jax.configs.NAME, also in a clone, where they lie at the top.

A wheel carries them in this very folder, without this file (pyproject.toml, package-dir).
"""

from pathlib import Path

__path__ = [str(Path(__file__).parents[2] / "configs")]
