"""Temporal stability against the released DAVIS 2016 code, step by step, and what must hold."""

import pickle

import numpy as np
import pytest

from tests.fixtures import fixture, load_npz
from vos_jax.metrics.temporal import contours
from vos_jax.metrics.temporal import stability as temporal
from vos_jax.metrics.temporal.contours import longest_contour, mask_polygons, upsample
from vos_jax.metrics.temporal.stability import (
    SCALE,
    TemporalStability,
    context_distances,
    match,
    outline_context,
    pair_instability,
    shortest_path,
)


@pytest.fixture(scope="module", params=["case_a", "case_c"])
def sequences(request):
    """Per sequence its masks bool [T, H, W] and the official values of every step."""
    trimmed = f"t_{request.param}"
    stored = (fixture("vos_eval") / f"{trimmed}.npz").is_file()
    arrays = load_npz("vos_eval", trimmed if stored else request.param)
    grouped = {}
    for key, value in arrays.items():
        if key.startswith("t_"):
            sequence, name = key[2:].split("_", 1)
            grouped.setdefault(sequence, {})[name] = value
    for golden in grouped.values():
        bits = np.unpackbits(golden["masks"], count=np.prod(golden["shape"]))
        golden["masks"] = bits.reshape(golden["shape"]).astype(bool)
    assert {"junction", "wobble", "parts", "blobs", "noise", "rough"} <= set(grouped)
    return grouped


def speckle(seed, shape=(48, 64)):
    """A ragged mask with several parts, holes and pixels that touch only at a corner."""
    coarse = np.random.default_rng(seed).random((shape[0] // 4, shape[1] // 4)) < 0.5
    return np.kron(coarse, np.ones((4, 4))).astype(bool)


def disk(row, column, radius, shape=(60, 80)):
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    return (rows - row) ** 2 + (columns - column) ** 2 <= radius**2


def stability(masks):
    measure = TemporalStability()
    for mask in masks:
        measure.add(mask)
    return measure.values()


def test_polygons_are_official(sequences):
    for sequence, golden in sequences.items():
        for frame in (0, 1):
            polygons = mask_polygons(golden["masks"][frame])
            points = np.concatenate([np.empty((0, 2)), *(p.points for p in polygons)])
            found = {
                "lens": [len(p.points) for p in polygons],
                "hole": [p.hole for p in polygons],
                "xy": points,
            }
            for name, value in found.items():
                expected = golden[f"poly{frame}_{name}"]
                np.testing.assert_array_equal(value, expected, f"{sequence} {frame} {name}")


def test_points_along_the_longest_outline_are_official(sequences):
    for sequence, golden in sequences.items():
        for frame in (0, 1):
            contour = longest_contour(golden["masks"][frame])
            if contour is None:
                assert f"up{frame}" not in golden
                continue
            points = upsample(contour)
            assert points.dtype == np.float32
            np.testing.assert_array_equal(points, golden[f"up{frame}"], f"{sequence} {frame}")


def test_shape_contexts_costs_and_pairs_are_official(sequences):
    compared = set()
    for sequence, golden in sequences.items():
        contexts = [outline_context(mask) for mask in golden["masks"][:2]]
        found = {"sc0": contexts[0]}
        if contexts[1] is not None:
            found["costmat"] = context_distances(*contexts)
            found["pairs"], found["shift"] = match(found["costmat"])
        for name in found.keys() & golden.keys():
            np.testing.assert_array_equal(found[name], golden[name], f"{sequence} {name}")
            compared.add(name)
    assert compared == {"sc0", "costmat", "pairs", "shift"}


def test_costs_of_all_pairs_are_official(sequences):
    for sequence, golden in sequences.items():
        masks = golden["masks"]
        costs = [pair_instability(a, b) for a, b in zip(masks[:-1], masks[1:], strict=True)]
        np.testing.assert_array_equal(costs, golden["cost"], sequence)


def test_values_and_mean_over_the_scored_frames_are_official(sequences):
    for sequence, golden in sequences.items():
        values = stability(golden["masks"][1:-1])
        assert values.dtype == np.float64
        np.testing.assert_array_equal(values, golden["X"][1:-1], sequence)
        assert np.nanmean(values) == golden["mean"], sequence


@pytest.mark.parametrize("seed", range(3))
def test_a_mask_that_stays_has_t_zero(seed):
    assert stability([speckle(seed)] * 3).tolist() == [0, 0]


def test_an_outline_that_only_moves_has_t_zero():
    masks = np.zeros((3, 60, 80), bool)
    for t in range(3):
        masks[t, 5 + 4 * t : 29 + 4 * t, 7 + 9 * t : 43 + 9 * t] = True
    assert stability(masks).tolist() == [0, 0]


def test_a_jittering_outline_has_a_higher_t_than_a_smoothly_growing_one():
    smooth = [disk(30, 40, 15 + t) for t in range(4)]
    jitter = [mask ^ (speckle(t, mask.shape) & disk(30, 40, 22)) for t, mask in enumerate(smooth)]
    assert 0 < np.mean(stability(smooth)) < np.mean(stability(jitter)) / 2


def test_a_mask_without_polygon_gives_nan_on_both_sides():
    empty, speck, blob = np.zeros((60, 80)), disk(9, 9, 0.5), disk(30, 40, 15)
    known = np.isfinite(stability([blob, blob, empty, blob, blob, speck]))
    assert known.tolist() == [True, False, False, True, False]
    assert np.isnan(pair_instability(empty, blob))


def test_any_number_of_masks_gives_one_value_less():
    assert TemporalStability().values().shape == stability([disk(9, 9, 6)]).shape == (0,)


def test_mask_by_mask_equals_pair_by_pair():
    masks = [speckle(seed).astype(np.uint8) * 255 for seed in range(4)]
    pairs = [pair_instability(a, b) for a, b in zip(masks[:-1], masks[1:], strict=True)]
    assert stability(masks).tolist() == [SCALE * cost for cost in pairs]


def test_the_state_does_not_grow_with_the_masks_seen():
    def size(count):
        measure = TemporalStability()
        for _ in range(count):
            measure.add(disk(30, 40, 15))
        return len(pickle.dumps(measure))

    assert size(30) - size(3) <= 27 * 9  # one float each


def test_a_mask_of_another_size_or_rank_is_refused():
    measure = TemporalStability()
    measure.add(disk(9, 9, 5))
    with pytest.raises(
        ValueError, match=r"mask 1 has shape \(80, 60\), those before it \(60, 80\)"
    ):
        measure.add(disk(9, 9, 5).T)
    with pytest.raises(ValueError, match=r"found shape \(2, 60, 80\)"):
        TemporalStability().add(np.zeros((2, 60, 80)))


def test_block_size_changes_no_cost_and_no_value(monkeypatch):
    contexts = [outline_context(speckle(seed)) for seed in (0, 1)]
    monkeypatch.setattr(temporal, "BLOCK_BYTES", 1 << 40)
    whole, cost = context_distances(*contexts), pair_instability(speckle(0), speckle(1))
    for block_bytes in (1, contexts[1].nbytes * 7):
        monkeypatch.setattr(temporal, "BLOCK_BYTES", block_bytes)
        np.testing.assert_array_equal(context_distances(*contexts), whole)
        assert pair_instability(speckle(0), speckle(1)) == cost


@pytest.mark.parametrize("levels", [2, 3, 10, None])
def test_paths_with_few_or_many_ties_are_those_of_the_heap(levels):
    rng = np.random.default_rng(0)
    for n1, n2 in [(1, 1), (1, 7), (7, 1), (12, 9), (30, 41)]:
        cost = rng.random((n1, n2)) if levels is None else rng.integers(0, levels, (n1, n2)) / 7
        np.testing.assert_array_equal(shortest_path(cost), temporal._heap_path(cost))


def test_a_path_is_connected_and_as_cheap_as_any():
    cost = np.random.default_rng(1).random((9, 13))
    path = shortest_path(cost)
    assert path[0].tolist() == [8, 12] and path[-1].tolist() == [0, 0]
    steps = {tuple(step) for step in (path[:-1] - path[1:]).tolist()}
    assert steps <= {(0, 1), (1, 0), (1, 1)}
    best = np.full((9, 13), np.inf)
    best[0, 0] = 0
    for i, j in list(np.ndindex(9, 13))[1:]:
        best[i, j] = cost[i, j] + min(
            best[max(i - 1, 0), j], best[i, max(j - 1, 0)], best[max(i - 1, 0), max(j - 1, 0)]
        )
    assert cost[path[:-1, 0], path[:-1, 1]].sum() == pytest.approx(best[-1, -1], abs=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_pairs_are_one_to_one(seed):
    pairs, cheapest = match(np.random.default_rng(seed).random((17, 23)))
    for column in pairs.T:
        assert len(set(column.tolist())) == len(column)
    assert list(cheapest) in pairs.tolist()


def test_the_second_pass_never_starts_behind_the_first_pair_of_points():
    cost = 1 + np.random.default_rng(0).random((9, 8))
    cost[0, 0] = 0
    assert match(cost)[1] != (0, 0)


@pytest.mark.parametrize("seed", range(3))
def test_outlines_use_every_edge_once_and_turn_where_pixels_touch_at_a_corner(seed):
    mask = np.random.default_rng(seed).random((30, 40)) < 0.5
    mask[[0, -1]] = mask[:, [0, -1]] = False
    edges = (mask[1:] ^ mask[:-1]).sum() + (mask[:, 1:] ^ mask[:, :-1]).sum()
    touching = mask[:-1, :-1] == mask[1:, 1:]
    touching &= (mask[:-1, 1:] == mask[1:, :-1]) & (mask[:-1, 1:] != mask[:-1, :-1])
    walked = 0
    for loop in contours._loops(mask):
        corners = np.stack(np.divmod(loop, 41), axis=1)
        steps = np.diff(corners, axis=0)
        assert (np.abs(steps).sum(axis=1) == 1).all() and (corners[0] == corners[-1]).all()
        walked += len(steps)
        junction = touching[tuple(corners[:-1].T - 1)]
        assert len(set(map(tuple, corners[:-1][junction].tolist()))) == junction.sum()
        assert ((steps * np.roll(steps, 1, axis=0)).sum(axis=1)[junction] == 0).all()
    assert walked == edges


def test_squares_that_touch_at_a_corner_are_two_outlines_and_a_hole_is_one():
    mask = np.zeros((40, 40), bool)
    mask[4:16, 4:16] = mask[16:28, 16:28] = True
    assert [p.hole for p in mask_polygons(mask)] == [False, False]
    mask[18:26, 18:26] = False
    assert sorted(p.hole for p in mask_polygons(mask)) == [False, False, True]
    assert mask_polygons(np.ones((9, 9)))[0].points.tolist()[0] == [0, 0]


@pytest.mark.parametrize("seed", range(3))
def test_upsampled_points_keep_the_vertices_and_lie_close_together(seed):
    contour = longest_contour(speckle(seed))
    points = upsample(contour)
    assert {tuple(p) for p in contour.tolist()} <= {tuple(p) for p in points.tolist()}
    assert np.hypot(*np.diff(points, axis=0).T).max() <= 3 + 1e-4
