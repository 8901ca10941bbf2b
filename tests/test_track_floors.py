"""Floors of synthetic-vis-v1 by regime: what linking true masks by their boxes can and cannot."""

import pytest

from vos_jax.data.synthetic_vis import regime_of, synthetic_vis_videos
from vos_jax.evaluating.track_floors import COPIED, LINKED, TRUTH, floor_table, track_floors


@pytest.fixture(scope="module")
def videos():
    return synthetic_vis_videos("test")


def test_the_floors_separate_the_regimes(videos):
    scores = track_floors(videos, regime_of)
    ap = {floor: {k: s.metrics["AP"] for k, s in by.items()} for floor, by in scores.items()}
    linked = ap[LINKED]
    assert linked["slow"] > 0.95 and linked["fast"] < 0.1 and linked["hidden"] < 0.2
    assert 0.2 < linked["alike"] < 0.8 and linked["all"] < 0.25
    assert max(ap[COPIED].values()) < 0.02
    assert min(ap[TRUTH].values()) > 0.999
    assert scores[TRUTH]["all"].switches.switches == 0 < scores[LINKED]["all"].switches.switches


def test_the_table_has_a_row_for_each_floor_and_a_column_for_each_group(videos):
    lines = floor_table(videos[:4], regime_of).splitlines()
    assert lines[0].split() == ["AP", "all", "slow", "fast", "alike", "hidden", "id", "switches"]
    assert [line.split("  ")[0] for line in lines[2:]] == [LINKED, COPIED, TRUTH]
    assert floor_table(videos[:1]).splitlines()[0].split()[:2] == ["AP", "all"]
