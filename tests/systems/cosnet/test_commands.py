"""COSNet from the command line: a user's video without any mask, refined or not."""

import numpy as np
import pytest
from flax import traverse_util
from ml_collections import ConfigDict
from PIL import Image

import vos_jax
from tests import tiny
from tests.tiny import quick_compilation, tiny_system
from vos_jax import convert, segment
from vos_jax.checkpoint_folder import export_variables
from vos_jax.data.masks import read_mask
from vos_jax.data.synthetic_salient import salient_videos
from vos_jax.evaluation import Evaluation
from vos_jax.inference.setup import build_inference
from vos_jax.systems.cosnet.official import source

SHOWN = {"selection": "uniform", "num_references": 2}


@pytest.fixture(autouse=True)
def quickly():
    with quick_compilation():
        yield


@pytest.fixture
def video(tmp_path):
    """A folder with frames, and the frames."""
    frames = salient_videos("test", 1, 4)[0].clip().frames[:, ::2, ::2]
    (tmp_path / "frames").mkdir()
    for t, frame in enumerate(frames):
        Image.fromarray(frame).save(tmp_path / f"frames/{t:05d}.png")
    return tmp_path / "frames", frames


@pytest.mark.parametrize("crf", [False, True])
def test_segment_shows_the_references_first_and_refines_where_the_config_says_so(
    crf, video, tmp_path
):
    folder, frames = video
    config = tiny.get_config("cosnet")
    config.inference.update({**SHOWN, "crf": crf})
    _, variables = tiny_system("cosnet", attention="symmetric", gate_bias=True)
    export_variables(tmp_path / "weights", variables, config.to_dict(), {})
    outputs = [f"--out={tmp_path}/out", f"--maps={tmp_path}/maps"]
    segment.main(["segment", f"--checkpoint={tmp_path}/weights", f"--frames={folder}", *outputs])

    segmenter = vos_jax.load(tmp_path / "weights")
    references = build_inference(config).reference_frames(4)
    assert references == (0, 2)
    segmenter.observe([frames[t] for t in references])
    for t, frame in enumerate(frames):
        labels = segmenter.step(frame)
        np.testing.assert_array_equal(read_mask(tmp_path / f"out/{t:05d}.png"), labels)
        with np.load(tmp_path / f"maps/{t:05d}.npz") as maps:
            found = segmenter.probabilities()
            np.testing.assert_allclose(maps["probabilities"], found, atol=1e-5)
            np.testing.assert_array_equal(labels, found.argmax(axis=0))
    assert segmenter.ids == [1]


def test_the_same_network_with_fewer_references_is_scored_beside_it(tmp_path):
    config = tiny.get_config("cosnet")
    assert config.eval.beside.alone.num_references == 0
    config.inference.update(SHOWN)
    config.data.eval.synthetic.videos = 1
    config.eval.beside = ConfigDict({"alone": {"num_references": 0}})
    _, variables = tiny_system("cosnet", attention="symmetric", gate_bias=True)
    found = Evaluation(config).run(variables, tmp_path / "results", write_masks=False).metrics
    assert list(found) == ["model", "alone", "background", "whole_frame"]
    assert found["model"]["J-Mean"] != found["alone"]["J-Mean"]
    config.eval.beside = ConfigDict({"whole_frame": {"num_references": 0}})
    with pytest.raises(ValueError, match="eval.beside.whole_frame: expected another name"):
        Evaluation(config)


def test_a_converted_file_runs_under_paper_with_no_further_flag(video, tmp_path):
    """Official names of a file of their container's layout, here of a narrower network."""
    model, variables = tiny_system("cosnet", backbone="resnet18")
    official = _official(variables)
    np.savez(tmp_path / "official.npz", **official)
    config = tmp_path / "config.py"
    fields = {"backbone": "resnet18", "width": 0.125, "features": 8, "pyramid": 8}
    config.write_text(
        "from vos_jax.configs import cosnet\n\ndef get_config(preset='paper'):\n"
        f"    config = cosnet.get_config('paper')\n    config.model.update({fields!r})\n"
        "    return config\n"
    )
    call = [f"--source={tmp_path}/official.npz", f"--out={tmp_path}/out", f"--config={config}"]
    convert.main(["convert", "--model=cosnet", *call])
    segmenter = vos_jax.load(tmp_path / "out")
    segmenter.observe(list(video[1][1:]))
    assert segmenter.step(video[1][0]).shape == video[1][0].shape[:2]
    assert segmenter._model.legacy_double_softmax and segmenter._model.size == (473, 473)


def _official(variables):
    """Our arrays under official names and in the official layout, with the prefix of training."""
    found = {}
    for path, x in traverse_util.flatten_dict(variables, sep="/").items():
        name = source(path.split("/")[1:]).name
        if x.ndim == 4:
            x = x.transpose(3, 2, 0, 1)
        elif x.ndim == 2:
            x = x.T
        if "main_classifier" in name and name.endswith("weight"):
            x = x[..., None, None]
        found[f"module.{name}"] = x.reshape(1, -1, 1, 1) if name == "gate.weight" else x
    return found
