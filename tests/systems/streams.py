"""A clip through the streaming segmenter, frame by frame."""

from typing import Any

import numpy as np

from vos_jax.inference.streaming import VideoSegmenter
from vos_jax.systems.base import VOSModel


def stream(
    model: VOSModel,
    variables: dict[str, Any],
    frames: np.ndarray,
    given: dict[int, np.ndarray],
    **settings: Any,
) -> list[list[np.ndarray]]:
    """Labels and probabilities of every frame; `given` maps frame number -> label map."""
    segmenter = VideoSegmenter(model, variables, **settings)
    steps = [
        (segmenter.step(frame, given.get(t)), segmenter.probabilities())
        for t, frame in enumerate(frames)
    ]
    return [list(x) for x in zip(*steps, strict=True)]
