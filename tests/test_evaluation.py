import json
from dataclasses import replace

import jax
import numpy as np
import pytest
from PIL import Image

from tests.squares import SIZE, moving_squares
from tests.tiny import get_config, quick_compilation
from vos_jax.checkpoint_folder import export_variables
from vos_jax.data.clip import VOID
from vos_jax.data.masks import read_mask
from vos_jax.evaluating.methods import Together
from vos_jax.evaluation import FLOORS, Evaluation, evaluate
from vos_jax.inference.setup import build_inference
from vos_jax.metrics.floors import CopyMask, NearestColour
from vos_jax.metrics.frame import frame_scores
from vos_jax.metrics.protocols import PROTOCOLS
from vos_jax.systems.build import init_variables
from vos_jax.systems.propagation import Propagation


class Fed(CopyMask):
    """A segmenter that copies masks and remembers what it was fed; the first step needs labels."""

    def __init__(self):
        super().__init__()
        self.fed = []

    def step(self, frame, labels=None):
        assert labels is not None or self.fed
        self.fed.append(None if labels is None else np.unique(labels).tolist())
        return super().step(frame, labels)


class Fixed:
    """Gives these label maps, one after the other."""

    def __init__(self, maps):
        self._maps = iter(maps)

    def step(self, frame, labels=None):
        return next(self._maps)


FOLLOWING = ("copy", "rgb", "propagation")
COPY = {"copy": lambda video: CopyMask()}
RGB = {"rgb": lambda video: NearestColour()}


def run(videos, methods=COPY | RGB, **options):
    """Evaluate a model that copies masks, and `methods` beside it."""
    return evaluate({"model": lambda video: Fed(), **methods}, videos, **options)


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """A config with every floor, and untrained weights for its backbone."""
    config, folder = get_config("feelvos"), tmp_path_factory.mktemp("backbone")
    config.model.window = 2
    model = Propagation(backbone="mobilenet_v2", width=config.model.width)
    with quick_compilation():
        variables = jax.device_get(init_variables(model, jax.random.key(0)))
        export_variables(folder, {kind: tree["trunk"] for kind, tree in variables.items()}, {}, {})
        config.init.backbone = str(folder)
        config.eval.floors = FOLLOWING
        yield config


@pytest.fixture(scope="module")
def floors(config):
    """Every floor that follows given masks, as a method; the network's too."""
    return {name: FLOORS[name](config).method for name in FOLLOWING}


def test_scores_are_those_of_the_scored_frames():
    video = moving_squares("a", void=True)
    found = run([video], {}).methods["model"]
    for k, scores in enumerate(found):
        first = np.where(video.mask(0) == VOID, 0, video.mask(0))
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
    results = run([video], {}, protocol=PROTOCOLS["fbms"])
    assert list(results.metrics["model"]) == ["J-Mean", "J-Recall", "J-Decay"]


def test_later_objects_are_given_alone_and_scored_from_then_on():
    video = moving_squares("late", ids=(5, 9), appear=(1, 3))
    segmenter = Fed()
    results = evaluate({"model": lambda video: segmenter, **RGB}, [video])
    # Frame 0 holds no given mask: the segmenter starts at frame 1.
    assert segmenter.fed == [[0, 5], None, [0, 9], None, None]
    assert [o.frames for o in results.methods["model"]] == [3, 1]
    assert results.metrics["rgb"]["J-Mean"] == 1


def test_every_floor_waits_for_the_first_mask_and_takes_later_objects(floors):
    # a network with a stride of 8 sees little of small squares
    video = moving_squares("late", ids=(5, 9), appear=(1, 3), enlarged=4)
    maps = {name: [] for name in floors}

    class Noted:
        def __init__(self, name, stepper):
            self.name, self.stepper = name, stepper

        def step(self, frame, labels=None):
            maps[self.name].append(self.stepper.step(frame, labels))
            return maps[self.name][-1]

        def dispatch(self, frames, labels):
            (answer,) = self.stepper.dispatch(frames, labels)
            maps[self.name].append(answer())
            return [lambda labels=maps[self.name][-1]: labels]

    def noted(name, method):
        begin = lambda given: Noted(name, method(given))  # noqa: E731 - a video, or several
        return replace(method, begin=begin) if isinstance(method, Together) else begin

    methods = {name: noted(name, method) for name, method in floors.items()}
    results = evaluate(methods, [video])
    for name in floors:
        assert [o.frames for o in results.methods[name]] == [3, 1]
        assert results.metrics[name]["J-Mean"] > 0.3, name
        assert [set(np.unique(labels)) for labels in maps[name]][:2] == [{0, 5}] * 2, name
        assert {9} < set(np.unique(maps[name][2])), name


def test_objects_without_scored_frames_are_left_out_and_counted():
    scored = np.zeros((6, 2), bool)
    scored[2:4, 1] = True
    results = run([moving_squares("a", scored=scored)])
    assert [o.name for o in results.methods["model"]] == ["a_2"]
    printed = results.report()
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
    results = run([video], out_dir=tmp_path)
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert scores["protocol"] == "davis2017"
    assert scores["metrics"] == results.metrics["model"]
    assert scores["settings"]["scored_object_frames"] == 8
    rgb = json.loads((tmp_path / "floors/rgb/scores.json").read_text())
    assert rgb["metrics"]["J-Mean"] == 1 and rgb["settings"]["method"] == "rgb"
    assert (tmp_path / "global_results-val.csv").exists()
    assert (tmp_path / "per-sequence_results-val.csv").read_text().count("\n") == 3
    assert (tmp_path / "tables.txt").read_text() == results.report() + "\n"
    assert len(list((tmp_path / "masks/a").iterdir())) == 6
    assert set(np.unique(read_mask(tmp_path / "masks/a/00005.png"))) == {0, 3, 200}
    with Image.open(tmp_path / "overlays/a.gif") as gif:
        assert gif.size == (32, 24)


def test_existing_results_are_refused_before_any_frame_is_read(tmp_path):
    (tmp_path / "scores.json").write_text("{}")
    video = moving_squares("a")
    read = noted_reads(video)
    with pytest.raises(FileExistsError, match="holds results already: scores.json"):
        run([video], out_dir=tmp_path)
    assert not read
    run([video], out_dir=tmp_path, overwrite=True)


def test_label_maps_and_overlays_stay_out_when_not_asked_for(tmp_path):
    run([moving_squares("a")], out_dir=tmp_path, write_masks=False, overlay=False)
    written = {"scores.json", "tables.txt", "report.html", "floors"}
    written |= {"global_results-val.csv", "per-sequence_results-val.csv"}
    assert {file.name for file in tmp_path.iterdir()} == written


def test_videos_of_one_size_and_object_bucket_follow_each_other():
    order = []

    def note(video):
        order.append(video.name)
        return CopyMask()

    wide = (24, 40)
    run(
        [
            moving_squares("a", size=wide),
            moving_squares("b", ids=(1,)),
            moving_squares("c"),
            moving_squares("d", ids=(1,), size=wide),
            moving_squares("e", ids=(7,)),
        ],
        {"noted": note},
    )
    assert order == ["b", "e", "c", "d", "a"]


def test_any_method_gets_a_row_and_its_label_maps_are_checked():
    video = moving_squares("a")
    truth = {"truth": lambda video: Fixed(video.mask(t) for t in range(len(video)))}
    assert run([video], truth).metrics["truth"]["J&F-Mean"] == 1
    wrong = {
        r"small, a, frame 00000.*\(24, 32\).*\(3, 3\)": np.zeros((3, 3), np.uint8),
        r"small, a, frame 00000: .*integer.*float64": np.zeros(SIZE),
    }
    for message, labels in wrong.items():
        with pytest.raises(ValueError, match=message):
            run([video], {"small": lambda _, labels=labels: Fixed([labels])})


@pytest.mark.parametrize(
    "videos, message",
    [
        ([], "none of 0 videos has a scored frame"),
        (["a", "a"], r"several videos are called \['a'\]"),
    ],
)
def test_videos_that_cannot_be_scored_together_are_refused(videos, message):
    with pytest.raises(ValueError, match=message):
        run([moving_squares(name) for name in videos])


def noted_reads(video):
    """The numbers of the frames of a video, in the order in which they are read from now on."""
    load, read = video._load_frame, []
    video._load_frame = lambda t: (read.append(t), load(t))[1]
    return read


def test_frames_are_read_once_and_one_at_a_time_for_a_model_and_every_floor(floors):
    video = moving_squares("a")
    read = noted_reads(video)
    results = run([video], floors)
    assert list(results.methods) == ["model", "copy", "rgb", "propagation"]
    assert read == list(range(6))


def test_a_config_is_scored_beside_its_floors(config, tmp_path, capsys):
    variables = init_variables(build_inference(config).model, jax.random.key(1))
    results = Evaluation(config).run(variables, tmp_path, write_masks=False)
    assert list(results.methods) == ["model", "copy", "rgb", "propagation"]
    stored = json.loads((tmp_path / "floors/propagation/scores.json").read_text())
    assert stored["metrics"]["J-Mean"] == results.metrics["propagation"]["J-Mean"]
    assert results.metrics["propagation"]["J&F-Mean"] > results.metrics["model"]["J&F-Mean"]
    assert capsys.readouterr().out.startswith(results.report())


def test_a_config_may_evaluate_a_part_of_the_videos_and_says_so(config, tmp_path, capsys):
    part = config.copy_and_resolve_references()
    part.eval.update({"videos": 1, "floors": ("copy", "background")})
    variables = init_variables(build_inference(part).model, jax.random.key(1))
    results = Evaluation(part).run(variables, tmp_path / "eval", write_masks=False)
    assert len({scores.sequence for scores in results.methods["model"]}) == 1
    subset = "the first 1 of 2 videos by name"
    assert f"A subset: {subset}." in capsys.readouterr().out
    stored = json.loads((tmp_path / "eval/scores.json").read_text())
    assert stored["settings"]["subset"] == subset
    assert {file.name for file in (tmp_path / "floor_scores").iterdir()} == {
        "copy.json",
        "background.json",
    }


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("eval.videos", 3, "config.eval.videos: expected at most 2, as many as .*found 3"),
        ("eval.floors", ("copy", "rbg"), r"config\.eval\.floors: unknown \['rbg'\].*'copy', 'rgb'"),
        ("eval.protocol", "davis", "config.eval: unknown protocol 'davis'"),
        ("eval.metric", "G", r"config\.eval\.metric: protocol davis2017 reports J&F-Mean, .*'G'"),
        ("init.backbone", "", "'propagation', which needs config.init.backbone"),
        ("inference.scales", (), "config.inference.scales"),
    ],
)
def test_a_wrong_config_is_refused_before_anything_is_run(config, field, value, message):
    changed = config.copy_and_resolve_references()
    changed.update_from_flattened_dict({field: value})
    with pytest.raises(ValueError, match=message):
        Evaluation(changed).check_metric()
