"""Scoring one frame on one core."""

import argparse
from functools import partial

import cv2
import numpy as np

from vos_jax.benchmarks.measuring import Case
from vos_jax.metrics.frame import frame_scores, pair_scores
from vos_jax.metrics.temporal.stability import pair_instability


def metric_cases(options: argparse.Namespace) -> list[Case]:
    """J and F by id, those of all proposals, and T of a pair of masks."""
    cv2.setNumThreads(1)
    height, width = options.frame

    def labels(shift):
        """Objects side by side with wavy outlines, each about a quarter of the frame high."""
        y, x = np.mgrid[:height, :width]
        found = np.zeros((height, width), np.uint8)
        for k in range(options.objects):
            dy, dx = y - height / 2, x - shift - (k + 0.5) * width / options.objects
            waves = 1 + 0.2 * np.sin(6 * np.arctan2(dy, dx) + k)
            inside = np.hypot(dy / (0.3 * height), dx * 2.5 * options.objects / width) < waves
            found[inside] = k + 1
        return found

    ids = np.arange(1, options.objects + 1)
    by_id, proposals = "J and F of one frame", np.arange(1, 21)
    return [
        Case(by_id, partial(frame_scores, ids=ids), lambda: (labels(0), labels(5)), host=True),
        Case(
            "J and F of 20 proposals",
            partial(pair_scores, gt_ids=ids, pred_ids=proposals),
            lambda: (labels(0), labels(5)), by_id, host=True,
        ),
        Case(
            "T of one object, a pair of frames", pair_instability,
            lambda: (labels(0) == 1, labels(5) == 1), by_id, host=True,
        ),
    ]  # fmt: skip
