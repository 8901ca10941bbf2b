import json

import numpy as np
import pytest
from PIL import Image

from vos_jax.data.clip import Objects, Video
from vos_jax.data.masks import read_mask
from vos_jax.evaluate import evaluate
from vos_jax.metrics.frame import frame_scores
from vos_jax.metrics.protocols import PROTOCOLS

SIZE = (24, 32)
COLOURS = np.array([[90, 90, 90], [250, 20, 20], [20, 20, 250]], np.uint8)


class StubSegmenter:
    """Copies masks like the floor does; remembers what it was made with and fed."""

    made = []

    def __init__(self, model, variables, max_objects=None):
        self.slots, self.fed, self._labels = max_objects, [], None
        StubSegmenter.made.append(self)

    def step(self, frame, masks=None):
        assert masks is not None or self._labels is not None
        self.fed.append(None if masks is None else np.unique(masks).tolist())
        if masks is not None:
            old = np.zeros_like(masks) if self._labels is None else self._labels
            self._labels = np.where(masks > 0, masks, old)
        return self._labels.copy()


@pytest.fixture(autouse=True)
def fresh_stub():
    StubSegmenter.made.clear()


def moving_squares(name, ids=(1, 2), length=6, size=SIZE, appear=(0, 0), scored=None, void=False):
    """Squares that move 2 pixels a frame; object k is given at appear[k], scored afterwards."""
    labels = np.zeros((length, *size), np.uint8)
    for t in range(length):
        for k, i in enumerate(ids):
            if t >= appear[k]:
                labels[t, 4 + 10 * k : 12 + 10 * k, 2 + 2 * t : 12 + 2 * t] = i
    table = np.zeros((256, 3), np.uint8)
    table[[0, *ids]] = COLOURS[: len(ids) + 1]
    frames = table[labels]
    if void:
        labels[:, :2] = 255
    given, later = np.zeros((length, len(ids)), bool), np.zeros((length, len(ids)), bool)
    for k in range(len(ids)):
        given[appear[k], k] = True
        later[appear[k] + 1 : length - 1, k] = True
    return Video(
        name,
        "test",
        [f"{t:05d}" for t in range(length)],
        ["mask"] * length,
        lambda t: frames[t],
        lambda t: labels[t],
        lambda: Objects(np.array(ids), given, later if scored is None else scored, None, size),
    )


def run(videos, **options):
    options = {"segmenter": StubSegmenter, "quiet": True, **options}
    return evaluate(None, {}, videos, **options)


def test_scores_are_those_of_the_scored_frames():
    video = moving_squares("a", void=True)
    found = run([video], floors=()).methods["model"]
    for k, scores in enumerate(found):
        first = np.where(video.mask(0) == 255, 0, video.mask(0))
        expected = [frame_scores(video.mask(t), first, [k + 1]) for t in range(1, 5)]
        np.testing.assert_array_equal(scores.values["J"], np.ravel([j for j, _ in expected]))
        np.testing.assert_array_equal(scores.values["F"], np.ravel([f for _, f in expected]))


def test_model_and_floors_share_frames_and_colours_find_moving_squares():
    results = run([moving_squares("a"), moving_squares("b", ids=(3, 200))])
    assert list(results.methods) == ["model", "copy", "rgb"]
    assert results.metrics["model"] == results.metrics["copy"]
    assert results.metrics["rgb"]["J&F-Mean"] == 1
    assert results.metrics["copy"]["J&F-Mean"] < 0.8
    assert [o.name for o in results.methods["rgb"]] == ["a_1", "a_2", "b_3", "b_200"]


def test_the_protocol_decides_what_is_compared_and_averaged():
    video = moving_squares("a", ids=(3, 200))
    results = run([video], protocol=PROTOCOLS["davis2016"])
    assert [o.name for o in results.methods["model"]] == ["a_1"]
    first = (video.mask(0) > 0) * np.uint8(1)
    j = [frame_scores((video.mask(t) > 0) * np.uint8(1), first, [1])[0][0] for t in range(1, 5)]
    assert results.metrics["copy"]["J-Mean"] == np.mean(j)
    assert "protocol davis2016: 1 videos, 1 objects" in results.report()
    results = run([video], protocol=PROTOCOLS["fbms"], floors=())
    assert list(results.metrics["model"]) == ["J-Mean", "J-Recall", "J-Decay"]


def test_later_objects_are_given_alone_and_scored_from_then_on():
    video = moving_squares("late", ids=(5, 9), appear=(1, 3))
    results = run([video])
    segmenter = StubSegmenter.made[0]
    # Frame 0 holds no given mask: the segmenter starts at frame 1.
    assert segmenter.fed == [[0, 5], None, [0, 9], None, None]
    assert segmenter.slots == 2
    assert [o.frames for o in results.methods["model"]] == [3, 1]
    assert results.metrics["rgb"]["J-Mean"] == 1


def test_objects_without_scored_frames_are_left_out_and_counted(capsys):
    scored = np.zeros((6, 2), bool)
    scored[2:4, 1] = True
    results = run([moving_squares("a", scored=scored)], quiet=False)
    assert [o.name for o in results.methods["model"]] == ["a_2"]
    printed = capsys.readouterr().out
    assert "1 videos, 1 objects (1 without a scored frame left out), 2 of 6 frames" in printed
    assert "void pixels of the annotation: background" in printed


def test_the_report_has_a_row_per_method_and_a_line_per_sequence():
    lines = run([moving_squares("a"), moving_squares("b")]).report().splitlines()
    assert lines[0].split() == ["J&F-Mean", "model", "copy", "rgb"]
    assert [line.split()[0] for line in lines[2:4]] == ["a", "b"]
    assert [line.split()[0] for line in lines[7:10]] == ["model", "copy", "rgb"]
    assert lines[5].split()[1:4] == ["J&F-Mean", "J-Mean", "J-Recall"]


def test_results_masks_and_overlays_are_written(tmp_path):
    video = moving_squares("a", ids=(3, 200))
    results = run([video], out_dir=tmp_path, subset="train")
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert scores["protocol"] == "davis2017"
    assert scores["metrics"] == results.metrics["model"]
    assert scores["settings"]["scored_object_frames"] == 8
    rgb = json.loads((tmp_path / "floors/rgb/scores.json").read_text())
    assert rgb["metrics"]["J-Mean"] == 1 and rgb["settings"]["method"] == "rgb"
    assert (tmp_path / "global_results-train.csv").exists()
    assert (tmp_path / "per-sequence_results-train.csv").read_text().count("\n") == 3
    assert (tmp_path / "tables.txt").read_text() == results.report() + "\n"
    assert len(list((tmp_path / "masks/a").iterdir())) == 6
    assert set(np.unique(read_mask(tmp_path / "masks/a/00005.png"))) == {0, 3, 200}
    with Image.open(tmp_path / "overlays/a.gif") as gif:
        assert gif.size == (32, 24)


def test_existing_results_are_refused_before_any_frame_is_read(tmp_path):
    (tmp_path / "scores.json").write_text("{}")
    with pytest.raises(FileExistsError, match="holds results already: scores.json"):
        run([moving_squares("a")], out_dir=tmp_path)
    assert not StubSegmenter.made
    run([moving_squares("a")], out_dir=tmp_path, overwrite=True)


def test_videos_of_one_size_and_object_bucket_follow_each_other():
    order = []

    def note(video):
        order.append(video.name)
        return (np.zeros(video.original_size, np.uint8) for _ in video.frame_names)

    wide = (24, 40)
    run(
        [
            moving_squares("a", size=wide),
            moving_squares("b", ids=(1,)),
            moving_squares("c"),
            moving_squares("d", ids=(1,), size=wide),
            moving_squares("e", ids=(7,)),
        ],
        floors=(),
        predictors={"zero": note},
    )
    assert order == ["b", "e", "c", "d", "a"]


def test_further_predictors_get_rows_and_are_checked():
    def short(video):
        yield np.zeros(SIZE, np.uint8)

    results = run(
        [moving_squares("a")],
        predictors={"truth": lambda video: (video.mask(t) for t in range(len(video)))},
    )
    assert results.metrics["truth"]["J&F-Mean"] == 1
    with pytest.raises(ValueError, match="fewer label maps than frames"):
        run([moving_squares("a")], predictors={"short": short})
    with pytest.raises(ValueError, match=r"small, a, frame 00000.*\(24, 32\).*\(3, 3\)"):
        small = (np.zeros((3, 3), np.uint8) for _ in range(6))
        run([moving_squares("a")], predictors={"small": lambda _: small})


@pytest.mark.parametrize(
    "videos, options, message",
    [
        ([], {}, "none of 0 videos has a scored frame"),
        (["a"], {"floors": ("rbg",)}, r"unknown floors \['rbg'\].*copy"),
        (["a", "a"], {}, r"several videos are called \['a'\]"),
        (["a"], {"predictors": {"rgb": iter}}, r"\['rgb'\] have the names of other methods"),
    ],
)
def test_wrong_calls_say_what_is_wrong(videos, options, message):
    with pytest.raises(ValueError, match=message):
        run([moving_squares(name) for name in videos], **options)


def test_frames_are_read_once_and_one_at_a_time():
    video, read = moving_squares("a"), []
    load = video._load_frame
    video._load_frame = lambda t: (read.append(t), load(t))[1]
    run([video])
    assert read == list(range(6))
