"""Several views of a video: what they share, and what each of them keeps to itself.

The release's numbers for CFBI are in test_cfbi.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from tests.conftest import TINY as FEELVOS_TINY
from tests.shrunk import lively, quick_compilation
from tests.systems.cfbi.test_cfbi import TINY as CFBI_TINY
from tests.systems.stm.cases import TINY as STM_TINY
from tests.systems.stm.cases import tiny_stm
from tests.systems.streams import stream
from vos_jax import segment as command
from vos_jax.checkpoint_folder import export_variables
from vos_jax.data.masks import read_mask, write_mask
from vos_jax.inference.streaming import VideoSegmenter, compiled
from vos_jax.systems.base import Traits, VOSModel
from vos_jax.systems.build import build_inference_model, build_model, init_variables, model_fields
from vos_jax.systems.frame_size import resize_frame, scaled_size
from vos_jax.systems.table import SYSTEMS
from vos_jax.systems.views import Views
from vos_jax.train.optim import map_with_path

VIEWS = {"scales": (1.0, 1.3), "flip": True}


@pytest.fixture(scope="module", autouse=True)
def quickly():
    with quick_compilation():
        yield


@pytest.fixture(scope="module")
def feelvos(quickly):
    model = build_model(FEELVOS_TINY)
    return model, lively(init_variables(model, jax.random.key(0)))


@pytest.fixture(scope="module")
def stm(quickly):
    return tiny_stm()


@pytest.fixture(scope="module")
def cfbi(quickly):
    model = build_model(CFBI_TINY["cfbi"])
    variables = jax.device_get(init_variables(model, jax.random.key(2)))

    def gained(path, x):
        return x + 0.3 if "gamma" in path else x * (8 if "ground/" in path else 1)

    return model, {**variables, "params": map_with_path(gained, variables["params"])}


@pytest.fixture(scope="module", params=["feelvos", "stm", "cfbi"])
def system(request):
    """A small model and lively variables."""
    return request.getfixturevalue(request.param)


def test_a_mirrored_video_gives_mirrored_results(system, clip):
    model, variables = system
    frames, masks = clip[0][:4], clip[1][:4]
    mirrored = {0: masks[0][:, ::-1]}
    _, plain = stream(model, variables, frames, {0: masks[0]})
    _, other = stream(model, variables, frames[:, :, ::-1], mirrored)
    difference = np.abs(np.stack(plain) - np.stack(other)[..., ::-1])
    assert difference.max() > 1e-3  # without views it is not so

    views = Views(model, **VIEWS)
    labels, found = stream(views, variables, frames, {0: masks[0]})
    mirrored_labels, other = stream(views, variables, frames[:, :, ::-1], mirrored)
    np.testing.assert_allclose(np.stack(found), np.stack(other)[..., ::-1], atol=1e-6)
    np.testing.assert_array_equal(labels, np.stack(mirrored_labels)[..., ::-1])
    assert np.abs(np.stack(found) - np.stack(plain)).max() > 1e-3
    assert len(np.unique(labels[1:])) > 1


def test_one_view_is_the_system_itself(system, clip):
    model, variables = system
    frames, masks = clip[0][:4], clip[1]
    expected = stream(model, variables, frames, {0: masks[0]})
    found = stream(Views(model), variables, frames, {0: masks[0]})
    np.testing.assert_allclose(np.stack(found[1]), np.stack(expected[1]), atol=1e-6)
    # saturated probabilities tie where logits do not
    assert (np.stack(found[0]) != np.stack(expected[0])).mean() < 1e-3


def test_views_compile_once_in_memory_of_fixed_size_and_take_later_objects(system, clip):
    model, variables = system
    views = Views(model, **VIEWS)
    frames, masks = clip
    step = compiled(views)[1]
    segmenter = VideoSegmenter(views, variables, slots=2)
    segmenter.step(frames[0], np.where(masks[0] == 2, 0, masks[0]))
    segmenter.step(frames[1])
    programs, memory = step._cache_size(), jax.tree.map(np.shape, segmenter._memory)
    for frame in frames[2:]:
        segmenter.step(frame)
    assert step._cache_size() == programs
    assert jax.tree.map(np.shape, segmenter._memory) == memory
    later = np.where(masks[3] == 1, 0, masks[3])
    labels = segmenter.step(frames[3], later)
    assert not model.traits.pastes or (labels[later == 2] == 2).all()
    segmenter.step(frames[4])
    assert segmenter.probabilities()[2].max() > 0.1


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

    def segment(self, memory, features):
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


def test_masks_are_fed_back_as_the_system_does_it():
    kinds = {"stm": True, "feelvos": False, "cfbi": False, "cfbi_plus": False}
    for name, soft in kinds.items():
        assert Views(build_model({"name": name})).traits.soft_feedback == soft
    soft = build_model({"name": "feelvos", "previous_mask": "soft"})
    assert Views(soft).traits.soft_feedback


def test_every_system_has_a_scale_and_the_defaults_are_the_plain_system():
    for name, system in SYSTEMS.items():
        assert "scale" in model_fields(system.model), name
    plain = {"model": STM_TINY, "inference": {"scales": [1.0], "flip": False, "slots": 0}}
    assert build_inference_model(plain) == build_model(STM_TINY)
    stored = {**plain, "inference": {"scales": [1, 1.3], "flip": True, "capacity": 4}}
    expected = Views(build_model(STM_TINY, capacity=4), scales=(1.0, 1.3), flip=True)
    found = build_inference_model(stored)
    assert found == expected and hash(found) == hash(expected)


@pytest.mark.parametrize("scales", [(), 1.3, (0.0,), (1.0, -1.0), ("1.0",), (True,), (np.nan,)])
def test_scales_that_are_none_are_refused(scales):
    config = {"model": STM_TINY, "inference": {"scales": scales}}
    with pytest.raises(ValueError, match=r"config\.inference\.scales: expected .*found"):
        build_inference_model(config)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [((), (480, 854)), ((240,), (240, 427)), ((600, 1.5), (720, 1281)), ((240, 0.5), (120, 214))],
)
def test_frames_are_shrunk_first_and_scaled_then(settings, expected):
    assert scaled_size((480, 854), *settings) == expected


def test_segment_averages_the_views_that_the_config_names(feelvos, clip, tmp_path):
    model, variables = feelvos
    frames, masks = clip[0][:3], clip[1]
    config = {"model": FEELVOS_TINY, "inference": {"slots": 0, **VIEWS}}
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
