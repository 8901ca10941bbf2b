"""J, F, statistics, averages and CSV files against davis2017-evaluation."""

import numpy as np
import pytest

from tests.fixtures import load_npz
from vos_jax.data.clip import VOID
from vos_jax.metrics.boundary import boundary_accuracy, boundary_map, boundary_radius, disk
from vos_jax.metrics.protocols import PROTOCOLS
from vos_jax.metrics.region import region_similarity
from vos_jax.metrics.scorer import SequenceScorer
from vos_jax.metrics.scores import group_by
from vos_jax.metrics.statistics import sequence_statistics
from vos_jax.metrics.tables import global_csv, per_sequence_csv

TOLERANCE = 1e-12


@pytest.fixture(scope="module", params=["case_a", "case_c"])
def golden(request):
    return load_npz("vos_eval", request.param)


def score(golden, task, protocol):
    """Objects of all sequences of a task, as `score` and `evaluate` get them."""
    objects = []
    for sequence in map(str, golden[f"{task}_sequences"]):
        gt, pred = golden[f"{task}/{sequence}/gt"], golden[f"{task}/{sequence}/pred"]
        ids = np.arange(1, 1 + gt[0][gt[0] != VOID].max())
        scored = np.zeros((len(gt), len(ids)), bool)
        # The semi-supervised task drops the first and the last frame.
        scored[slice(1, -1) if task == "semi" else slice(None)] = True
        scorer = SequenceScorer(protocol, sequence, ids, scored)
        for t in np.flatnonzero(scored.any(axis=1)):
            scorer.add(t, gt[t], pred[t], f"{sequence} {t}")
        objects += scorer.scores()
    return objects


TASKS = [("semi", PROTOCOLS["davis2017"]), ("unsup", PROTOCOLS["davis2017-unsupervised"])]


@pytest.mark.parametrize(("task", "protocol"), TASKS, ids=["semi", "unsup"])
def test_scores_statistics_averages_and_files_are_official(golden, task, protocol):
    objects = score(golden, task, protocol)
    for sequence, group in group_by(objects, lambda scores: scores.sequence).items():
        if task == "unsup":  # the official code lists matched proposals, not objects
            group = sorted(group, key=lambda scores: scores.proposal)
            proposals, matched = golden[f"unsup/{sequence}/assign"]
            assert [scores.proposal - 1 for scores in group] == list(proposals)
            assert [scores.object_id - 1 for scores in group] == list(matched)
        for measure in ("J", "F"):
            expected = golden[f"{task}/{sequence}/{measure}"]
            values = [scores.values[measure] for scores in group]
            np.testing.assert_allclose(values, expected, rtol=0, atol=TOLERANCE)
            names = [f"{measure}-{statistic}" for statistic in ("Mean", "Recall", "Decay")]
            statistics = [[scores.metrics[name] for name in names] for scores in group]
            expected = golden[f"{task}/{sequence}/{measure}_stats"]
            np.testing.assert_allclose(statistics, expected, rtol=0, atol=TOLERANCE)
    values = list(protocol.metrics(objects).values())
    np.testing.assert_allclose(values, golden[f"{task}_global"], rtol=0, atol=TOLERANCE)
    assert global_csv(protocol, objects) == str(golden[f"{task}_csv_global"])
    assert per_sequence_csv(protocol, objects) == str(golden[f"{task}_csv_per_sequence"])


@pytest.mark.parametrize("unit", range(6))
def test_single_masks_with_void_and_other_tolerances_are_official(golden, unit):
    shape = (10, *golden[f"unit{unit}_shape"])

    def masks(name):
        bits = np.unpackbits(golden[f"unit{unit}_{name}"])[: np.prod(shape)]
        return bits.reshape(shape).astype(bool)

    assert boundary_radius(shape[1:]) == golden[f"unit{unit}_radius"]
    slots = zip(masks("seg"), masks("gt"), masks("void"), masks("bmap"), strict=True)
    for i, (seg, gt, void, outline) in enumerate(slots):
        np.testing.assert_array_equal(boundary_map(seg), outline)
        found = {
            "J": region_similarity(gt, seg),
            "J_void": region_similarity(gt, seg, void),
            "F": boundary_accuracy(gt, seg),
            "F_void": boundary_accuracy(gt, seg, void),
            "F_th2": boundary_accuracy(gt, seg, tolerance=2),
            "F_th003": boundary_accuracy(gt, seg, tolerance=0.03),
        }
        for name, value in found.items():
            assert value == pytest.approx(golden[f"unit{unit}_{name}"][i], abs=TOLERANCE), name


def test_statistics_of_any_length_are_official(golden):
    for values, (n, *expected) in zip(golden["stats_values"], golden["stats_n_M_R_D"], strict=True):
        found = sequence_statistics(values[: int(n)])
        np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE)


def test_disks_are_official(golden):
    for radius in range(1, 11):
        np.testing.assert_array_equal(disk(radius), golden[f"disk{radius}"])
