"""Writes docs/api/: a page of what `import vos_jax` exposes, from the docstrings.

pdoc looks for names without importing them, so the lazily imported ones are put in place first, and
it takes `vos_jax.score` for the command of that name as long as it sees the package's modules.
"""

from pathlib import Path

import pdoc

import vos_jax

for name in vos_jax.__all__:
    setattr(vos_jax, name, getattr(vos_jax, name))
vos_jax.__path__ = []
pdoc.render.configure(docformat="google", show_source=False, search=False)
pdoc.pdoc("vos_jax", output_directory=Path(__file__).with_name("api"))
