"""ObjectScores for tests."""

import numpy as np

from vos_jax.metrics.scores import ObjectScores


def scored(sequence, object_id, j, f=None, **facts):
    """An object with the given J and, if there is one, F per frame."""
    values = {"J": np.array(j, float)} | ({} if f is None else {"F": np.array(f, float)})
    return ObjectScores(sequence, object_id, values, **facts)
