"""Compiled programs outlive the process: the next run of the same model starts in seconds."""

import os
import tempfile

import jax

from vos_jax.notes import note

FOLDER = "~/.cache/vos_jax"


def keep_compiled_programs() -> None:
    """Keeps what JAX compiles for later runs, in FOLDER or where JAX_COMPILATION_CACHE_DIR says.

    An entry is named by its program, the devices and the versions; of several processes the first
    one writes, and all read. JAX_ENABLE_COMPILATION_CACHE=0 turns it off. A folder that cannot be
    written to goes unused, with a note.
    """
    if jax.config.jax_compilation_cache_dir or not jax.config.jax_enable_compilation_cache:
        return
    folder = os.path.expanduser(FOLDER)
    try:
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        if jax.process_index() == 0:
            note(f"compiled programs are not kept: {error}; JAX_COMPILATION_CACHE_DIR=DIR does it")
        return
    jax.config.update("jax_compilation_cache_dir", folder)
