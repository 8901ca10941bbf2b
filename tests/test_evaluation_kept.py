import numpy as np
import pytest

from tests.squares import moving_squares
from vos_jax.evaluating.kept import KeptScores, from_plain, to_plain
from vos_jax.evaluation import evaluate
from vos_jax.metrics.floors import CopyMask, NearestColour
from vos_jax.metrics.protocols import PROTOCOLS
from vos_jax.metrics.scores import ObjectScores

DAVIS = PROTOCOLS["davis2017"]


class Counted:
    """The RGB floor as a method, which notes the videos that it begins with."""

    def __init__(self):
        self.begun = []

    def __call__(self, video):
        self.begun.append(video.name)
        return NearestColour()


def run(folder, out, videos, identity="rgb 1", protocol=DAVIS):
    """Videos whose floor was computed, and the text of the tables."""
    floor = Counted()
    methods = {"model": lambda video: CopyMask(), "rgb": floor}
    kept = KeptScores(folder / "floor_scores", {"rgb": identity}, protocol)
    evaluate(methods, videos, protocol=protocol, out_dir=folder / out, kept=kept)
    texts = [file.read_text() for file in sorted((folder / out).rglob("*.[cjt][sx]*"))]
    return floor.begun, texts


def test_floors_are_computed_once_over_two_evaluations_with_the_same_tables(tmp_path, capsys):
    videos = [moving_squares("a"), moving_squares("b", ids=(3, 200), appear=(0, 2))]
    begun, tables = run(tmp_path, "first", videos)
    assert begun == ["a", "b"] and "note" not in capsys.readouterr().err
    again, same = run(tmp_path, "second", videos)
    assert again == [] and same == tables and len(tables) == 7
    assert "note: floors rgb: scores of 2 of 2 videos are those in" in capsys.readouterr().err
    assert run(tmp_path, "more", [*videos, moving_squares("c")])[0] == ["c"]
    assert run(tmp_path, "fewer", videos[1:])[0] == []


@pytest.mark.parametrize(
    "changes",
    [
        {"videos": [moving_squares("a", length=7)]},
        {"videos": [moving_squares("a", ids=(1, 3))]},
        {"videos": [moving_squares("a", void=True)]},
        {"videos": [moving_squares("a", enlarged=2)]},
        {"videos": [moving_squares("a", scored=np.eye(6, 2, dtype=bool))]},
        {"identity": "rgb 2"},
        {"protocol": PROTOCOLS["davis2016"]},
    ],
)
def test_scores_of_anything_else_are_computed_again(tmp_path, changes):
    run(tmp_path, "first", [moving_squares("a")])
    assert run(tmp_path, "second", **{"videos": [moving_squares("a")], **changes})[0] == ["a"]


def test_other_pixels_of_the_first_frame_are_another_video(tmp_path):
    video = moving_squares("a")
    run(tmp_path, "first", [video])
    load = video._load_frame
    video._load_frame = lambda t: load(t) ^ np.uint8(1)
    assert run(tmp_path, "second", [video])[0] == ["a"]


@pytest.mark.parametrize("damage", ["", "{", "[]", "0.99", "null"])
def test_a_damaged_file_is_told_and_computed_again(tmp_path, damage, capsys):
    videos = [moving_squares("a")]
    _, tables = run(tmp_path, "first", videos)
    file = tmp_path / "floor_scores/rgb.json"
    file.write_text(file.read_text().replace("1.0", damage, 1) if damage == "0.99" else damage)
    assert run(tmp_path, "second", videos) == (["a"], tables)
    assert f"note: {file} is damaged" in capsys.readouterr().err
    assert run(tmp_path, "third", videos) == ([], tables)


def test_scores_come_back_to_the_last_bit():
    values = {"J": np.array([1 / 3, 0.1, np.nan]), "T": np.array([np.nan])}
    for scores in (ObjectScores("a", 3, values), ObjectScores("b", 1, values, "cat", 2)):
        (found,) = from_plain(to_plain([scores]))
        for measure, expected in values.items():
            np.testing.assert_array_equal(found.values[measure], expected)
        facts = ("sequence", "object_id", "category", "proposal")
        assert all(getattr(found, name) == getattr(scores, name) for name in facts)
