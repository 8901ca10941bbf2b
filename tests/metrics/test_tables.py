import json

import numpy as np
import pytest

from vos_jax.metrics import tables
from vos_jax.metrics.tables import ObjectScores

OBJECTS = [
    ObjectScores("a", 1, np.array([1.0, 0.8]), np.array([0.6, 0.6])),
    ObjectScores("a", 7, np.array([0.0, 0.2]), np.array([0.2, 0.2])),
    ObjectScores("b", 1, np.array([0.6]), np.array([0.4])),
]


def write(folder, **options):
    tables.write_results(folder, OBJECTS, protocol="p", settings={"frames": 3}, **options)


def test_every_object_counts_once():
    found = tables.metrics(OBJECTS)
    assert found["J-Mean"] == pytest.approx((0.9 + 0.1 + 0.6) / 3)
    assert found["F-Mean"] == pytest.approx((0.6 + 0.2 + 0.4) / 3)
    assert found["J&F-Mean"] == pytest.approx((found["J-Mean"] + found["F-Mean"]) / 2)
    assert tables.sequence_metrics(OBJECTS)["a"]["J-Mean"] == pytest.approx(0.5)


def test_nothing_to_average_is_refused():
    with pytest.raises(ValueError, match="no object has a scored frame"):
        tables.metrics([])


def test_files_hold_the_numbers_in_the_official_layout(tmp_path):
    write(tmp_path / "results", subset="train")
    rows = (tmp_path / "results/per-sequence_results-train.csv").read_text().splitlines()
    assert rows[0] == "Sequence,J-Mean,F-Mean"
    assert rows[1:] == ["a_1,0.900,0.600", "a_7,0.100,0.200", "b_1,0.600,0.400"]
    head, row = (tmp_path / "results/global_results-train.csv").read_text().splitlines()
    assert head == "J&F-Mean,J-Mean,J-Recall,J-Decay,F-Mean,F-Recall,F-Decay"
    assert row.startswith("0.467,0.533,0.667")
    scores = json.loads((tmp_path / "results/scores.json").read_text())
    assert set(scores) == {"protocol", "metrics", "per_sequence", "per_object", "settings"}
    assert scores["per_object"]["a_7"]["frames"] == 2
    assert scores["metrics"] == tables.metrics(OBJECTS)


def test_existing_results_are_kept_unless_told(tmp_path):
    write(tmp_path)
    with pytest.raises(FileExistsError, match="global_results-val.csv.*scores.json"):
        write(tmp_path)
    (tmp_path / "scores.json").write_text("old")
    write(tmp_path, overwrite=True)
    assert "per_object" in (tmp_path / "scores.json").read_text()


def test_tables_are_aligned_and_have_one_column_per_method():
    lines = tables.sequence_table({"model": OBJECTS, "a long name": OBJECTS}).splitlines()
    assert lines[0].split(maxsplit=2) == ["J&F-Mean", "model", "a long name"]
    assert lines[2].split() == ["a", "0.450", "0.450"]
    assert len({len(line) for line in lines}) == 1
    rows = tables.method_table({"model": OBJECTS, "copy": OBJECTS}).splitlines()
    assert rows[2].split()[:3] == ["model", "0.467", "0.533"]
