"""J, F, statistics, averages and CSV files against davis2017-evaluation."""

import numpy as np
import pytest

from tests.fixtures import load_npz
from vos_jax.metrics.boundary import boundary_accuracy, boundary_map, boundary_radius, disk
from vos_jax.metrics.frame import frame_scores
from vos_jax.metrics.region import region_similarity
from vos_jax.metrics.statistics import sequence_statistics
from vos_jax.metrics.tables import ObjectScores, global_csv, metrics, per_sequence_csv

TOLERANCE = 1e-12


@pytest.fixture(scope="module", params=["case_a", "case_c"])
def golden(request):
    return load_npz("vos_eval", request.param)


def score(golden, prefix):
    """J and F [K, T - 2]: the DAVIS rule drops the first and the last frame."""
    gt, pred = golden[f"{prefix}/gt"], golden[f"{prefix}/pred"]
    ids = range(1, len(golden[f"{prefix}/J"]) + 1)
    pairs = zip(gt[1:-1], pred[1:-1], strict=True)
    return np.array([frame_scores(g, p, ids) for g, p in pairs]).transpose(1, 2, 0)


def test_scores_and_statistics_of_every_object_are_official(golden):
    for prefix in (f"semi/{sequence}" for sequence in golden["semi_sequences"]):
        j, f = score(golden, prefix)
        np.testing.assert_allclose(j, golden[f"{prefix}/J"], rtol=0, atol=TOLERANCE)
        np.testing.assert_allclose(f, golden[f"{prefix}/F"], rtol=0, atol=TOLERANCE)
        for measured, name in ((j, "J_stats"), (f, "F_stats")):
            statistics = [sequence_statistics(values) for values in measured]
            expected = golden[f"{prefix}/{name}"]
            np.testing.assert_allclose(statistics, expected, rtol=0, atol=TOLERANCE)


def test_global_numbers_and_csv_files_are_official(golden):
    objects = []
    for sequence in map(str, golden["semi_sequences"]):
        j, f = score(golden, f"semi/{sequence}")
        objects += [ObjectScores(sequence, k + 1, j[k], f[k]) for k in range(len(j))]
    values = list(metrics(objects).values())
    np.testing.assert_allclose(values, golden["semi_global"], rtol=0, atol=TOLERANCE)
    assert global_csv(objects) == str(golden["semi_csv_global"])
    assert per_sequence_csv(objects) == str(golden["semi_csv_per_sequence"])


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
