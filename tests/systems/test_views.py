"""Several views of a video: what they share, and what each of them keeps to itself.

What they promise for every system is in test_every_system, the release's numbers for CFBI are in
cfbi/test_release.
"""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from tests.systems.promises import stream
from tests.tiny import quick_compilation, tiny_section
from vos_jax import segment as command
from vos_jax.checkpoint_folder import export_variables
from vos_jax.data.masks import read_mask, write_mask
from vos_jax.inference.setup import build_inference
from vos_jax.systems.base import Traits, VOSModel
from vos_jax.systems.build import build_model
from vos_jax.systems.frame_size import resize_frame, scaled_size
from vos_jax.systems.table import systems_of
from vos_jax.systems.views import Views

VIEWS = {"scales": (1.0, 1.3), "flip": True}


@pytest.fixture(scope="module", autouse=True)
def quickly():
    with quick_compilation():
        yield


class Leaning(VOSModel):
    """Its object is where the frame is bright and where it was before, rather on the left."""

    scale: float = 1.0
    soft: bool = True

    @property
    def traits(self):
        return Traits(soft_feedback=self.soft)

    def preprocess(self, frame):
        return resize_frame(frame, scaled_size(frame.shape[:2], scale=self.scale))

    def encode(self, inputs, train=False):
        bright = inputs.mean(axis=-1) / 255 * jnp.linspace(1, 0, inputs.shape[2])
        return jax.image.resize(bright, (len(inputs), 8, 12), "linear")

    def start(self, features, masks, valid, num_references=1, train=False):
        return masks

    def segment(self, memory, features, train=False):
        return (memory[:, 1] + features) / 2

    def memorize(self, memory, features, prediction, masks):
        return masks

    def probabilities(self, prediction, size):
        return jnp.stack([1 - prediction, prediction], axis=1)


@pytest.mark.parametrize("soft", [True, False])
def test_all_views_remember_what_follows_from_the_mean(soft):
    frames = np.random.default_rng(0).integers(0, 255, (4, 8, 12, 3)).astype(np.uint8)
    first = np.zeros((8, 12), np.uint8)
    first[2:6, 1:5] = 1
    model = Leaning(soft=soft)
    _, found = stream(Views(model, **VIEWS), {}, frames, {0: first})
    remembered = first.astype(np.float32)
    for t in (1, 2, 3):
        seen = []
        for scale in VIEWS["scales"]:
            system = model.clone(scale=scale)
            for way in (1, -1):
                frame = np.ascontiguousarray(frames[t][:, ::way])
                features = system.encode(system.preprocess(frame)[None])
                seen.append(((remembered[:, ::way] + features[0]) / 2)[:, ::way])
        mean = np.mean(seen, axis=0)
        np.testing.assert_allclose(found[t], [1 - mean, mean], atol=1e-6)
        remembered = mean if soft else (mean > 0.5).astype(np.float32)
    assert mean.max() > 0.3


@pytest.mark.parametrize("soft", [True, False])
def test_views_declare_what_their_system_declares(soft):
    assert Views(Leaning(soft=soft)).traits == Traits(soft_feedback=soft)


@pytest.mark.parametrize("system", systems_of("vos"))
def test_the_defaults_are_the_plain_system_and_a_stored_config_gives_the_same_views(system):
    section = tiny_section(system)
    plain = {"model": section, "inference": {"scales": [1.0], "flip": False, "slots": 0}}
    assert build_inference(plain).model == build_model(section)
    inference = {"scales": [1, 1.3], "flip": True}
    stored = json.loads(json.dumps({"model": section, "inference": inference}))
    expected = Views(build_model(section), scales=(1.0, 1.3), flip=True)
    found = build_inference(stored).model
    assert found == expected and hash(found) == hash(expected)


@pytest.mark.parametrize("scales", [(), 1.3, (0.0,), (1.0, -1.0), ("1.0",), (True,), (np.nan,)])
def test_scales_that_are_none_are_refused(scales):
    config = {"model": tiny_section("stm"), "inference": {"scales": scales}}
    with pytest.raises(ValueError, match=r"config\.inference\.scales: expected .*found"):
        build_inference(config)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [((), (480, 854)), ((240,), (240, 427)), ((600, 1.5), (720, 1281)), ((240, 0.5), (120, 214))],
)
def test_frames_are_shrunk_first_and_scaled_then(settings, expected):
    assert scaled_size((480, 854), *settings) == expected


def test_segment_averages_the_views_that_the_config_names(tiny_feelvos, clip, tmp_path):
    model, variables = tiny_feelvos
    frames, masks = clip[0][:3], clip[1]
    config = {"model": tiny_section("feelvos"), "inference": {"slots": 0, **VIEWS}}
    export_variables(tmp_path / "weights", variables, config, {})
    (tmp_path / "frames").mkdir()
    for t, frame in enumerate(frames):
        Image.fromarray(frame).save(tmp_path / f"frames/{t:05d}.png")
    write_mask(tmp_path / "mask.png", masks[0])
    flags = {"checkpoint": "weights", "frames": "frames", "mask": "mask.png", "out": "out"}
    command.main(["segment", *(f"--{k}={tmp_path / v}" for k, v in flags.items())])
    expected, _ = stream(Views(model, **VIEWS), variables, frames, {0: masks[0]})
    for t in range(3):
        np.testing.assert_array_equal(read_mask(tmp_path / f"out/{t:05d}.png"), expected[t])
