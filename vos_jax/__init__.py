"""Video object and instance segmentation in JAX.

What is exposed here is stable and documented; everything else may change between versions.

    import vos_jax

    segmenter = vos_jax.load("runs/demo")  # a workdir, or a folder written by vos_jax.convert
    labels = segmenter.step(first_frame, first_mask)  # uint8 [H, W, 3] RGB, integer ids [H, W]
    for frame in frames:
        labels = segmenter.step(frame)

Names are imported when they are used, so that `import vos_jax` takes no time. The command is
`vos-jax` (vos_jax/cli.py), or `python -m vos_jax.cli`.
"""

import importlib
import os
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# TensorFlow only runs tf.data here; its start-up notices would bury our own messages.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

# name -> the module that defines it
_PUBLIC = {
    "load": "vos_jax.loading",
    "VideoSegmenter": "vos_jax.inference.streaming",
    "evaluate": "vos_jax.evaluation",
    "score": "vos_jax.scoring",
    "SYSTEMS": "vos_jax.systems.table",
    "build_model": "vos_jax.systems.build",
    "open_sources": "vos_jax.data.sources",
    "synthetic_videos": "vos_jax.data.synthetic",
}
__all__ = list(_PUBLIC)

if TYPE_CHECKING:  # for editors and type checkers, which do not run __getattr__
    from vos_jax.data.sources import open_sources
    from vos_jax.data.synthetic import synthetic_videos
    from vos_jax.evaluation import evaluate
    from vos_jax.inference.streaming import VideoSegmenter
    from vos_jax.loading import load
    from vos_jax.scoring import score
    from vos_jax.systems.build import build_model
    from vos_jax.systems.table import SYSTEMS


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'vos_jax' has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])
