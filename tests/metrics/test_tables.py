import csv
import io
import json

import pytest

from tests.metrics.objects import scored
from vos_jax.metrics import tables
from vos_jax.metrics.protocols import PROTOCOLS

DAVIS = PROTOCOLS["davis2017"]
OBJECTS = [
    scored("a", 1, [1.0, 0.8], [0.6, 0.6]),
    scored("a", 7, [0.0, 0.2], [0.2, 0.2]),
    scored("b", 1, [0.6], [0.4]),
]


def write(folder, **options):
    tables.write_results(folder, DAVIS, OBJECTS, settings={"frames": 3}, **options)


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
    assert scores["metrics"] == DAVIS.metrics(OBJECTS)
    assert scores["settings"]["frames"] == 3 and scores["settings"]["void"] == "background"


def test_numbers_that_do_not_exist_are_null_in_json_and_nan_in_tables():
    youtube = PROTOCOLS["youtube-vos"]  # without a list of seen categories there is no G
    scores = json.loads(tables.scores_json(youtube, OBJECTS, {}))
    assert scores["metrics"]["G"] is None and scores["metrics"]["J-Mean"] > 0
    assert tables.method_table(youtube, {"x": OBJECTS}).splitlines()[2].split()[1] == "nan"


def test_files_have_the_columns_of_the_measures():
    objects = [scored("bear", 1, [0.5, 0.7])]
    assert tables.global_csv(PROTOCOLS["fbms"], objects).startswith(
        "J-Mean,J-Recall,J-Decay\n0.600,"
    )
    assert tables.per_sequence_csv(PROTOCOLS["fbms"], objects) == "Sequence,J-Mean\nbear_1,0.600\n"


def test_a_name_with_commas_quotes_or_spaces_is_one_field_of_the_csv():
    names = ["bird of paradise", "a,b", 'say "hi"']
    objects = [scored(name, 1, [0.5, 0.7]) for name in names]
    text = tables.per_sequence_csv(PROTOCOLS["fbms"], objects)
    rows = list(csv.reader(io.StringIO(text, newline="")))
    assert rows == [["Sequence", "J-Mean"], *([f"{name}_1", "0.600"] for name in names)]
    assert text.splitlines()[1] == "bird of paradise_1,0.600"
    lines = tables.object_table(PROTOCOLS["fbms"], objects).splitlines()
    assert [line.rsplit(maxsplit=1) for line in lines[2:]] == [[f"{n}_1", "0.600"] for n in names]


def test_matched_proposals_are_numbered_in_their_order_in_the_csv_and_by_object_in_json():
    protocol = PROTOCOLS["davis2017-unsupervised"]
    objects = [scored("a", 1, [0.9], [0.9], proposal=5), scored("a", 2, [0.3], [0.3], proposal=2)]
    rows = tables.per_sequence_csv(protocol, objects).splitlines()[1:]
    assert rows == ["a_1,0.300,0.300", "a_2,0.900,0.900"]
    per_object = json.loads(tables.scores_json(protocol, objects, {}))["per_object"]
    assert per_object["a_1"]["J-Mean"] == 0.9 and per_object["a_1"]["proposal"] == 5


def test_groups_by_number_of_objects_and_by_category():
    lines = tables.grouped_table(DAVIS, OBJECTS, "objects").splitlines()
    assert lines[0].split()[:5] == ["objects", "per", "sequence", "sequences", "objects"]
    assert [line.split()[:4] for line in lines[2:]] == [
        ["1", "1", "1", "0.500"],
        ["2", "1", "2", "0.450"],
    ]
    animals = [scored("a", 1, [0.2], category="dog"), scored("b", 1, [0.8], category="cat")]
    lines = tables.grouped_table(PROTOCOLS["youtube-objects"], animals, "category").splitlines()
    assert [line.split()[:4] for line in lines[2:]] == [
        ["cat", "1", "1", "0.800"],
        ["dog", "1", "1", "0.200"],
    ]
    with pytest.raises(ValueError, match="3 objects have no category, the first is a_1"):
        tables.grouped_table(DAVIS, OBJECTS, "category")


def test_existing_results_are_kept_unless_told(tmp_path):
    write(tmp_path)
    with pytest.raises(FileExistsError, match="global_results-val.csv.*scores.json"):
        write(tmp_path)
    (tmp_path / "scores.json").write_text("old")
    write(tmp_path, overwrite=True)
    assert "per_object" in (tmp_path / "scores.json").read_text()


def test_tables_are_aligned_and_have_one_column_per_method():
    lines = tables.sequence_table(DAVIS, {"model": OBJECTS, "a long name": OBJECTS}).splitlines()
    assert lines[0].split(maxsplit=2) == ["J&F-Mean", "model", "a long name"]
    assert lines[2].split() == ["a", "0.450", "0.450"]
    assert len({len(line) for line in lines}) == 1
    rows = tables.method_table(DAVIS, {"model": OBJECTS, "copy": OBJECTS}).splitlines()
    assert rows[2].split()[:3] == ["model", "0.467", "0.533"]
