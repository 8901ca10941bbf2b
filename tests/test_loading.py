"""The front door: from a checkpoint to a segmenter, and what `import vos_jax` exposes."""

import subprocess
import sys

import numpy as np
import pytest
from ml_collections import ConfigDict

import vos_jax
from tests.tiny import tiny_section
from vos_jax.checkpoint_folder import export_variables
from vos_jax.inference.setup import build_inference
from vos_jax.inference.streaming import VideoSegmenter
from vos_jax.loading import load_variables


@pytest.fixture(scope="module")
def checkpoint(tiny_feelvos, tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights") / "feelvos"
    # as JSON has it, and without the fields that have their defaults
    export_variables(folder, tiny_feelvos[1], {"model": tiny_section("feelvos")}, {})
    return folder


def test_load_gives_a_segmenter_that_does_what_the_model_does(checkpoint, tiny_feelvos, clip):
    frames, masks = clip
    loaded, expected = vos_jax.load(checkpoint), VideoSegmenter(*tiny_feelvos)
    for t in range(3):
        given = masks[0] if t == 0 else None
        found, labels = (s.step(frames[t], given) for s in (loaded, expected))
        np.testing.assert_array_equal(found, labels)
    np.testing.assert_array_equal(loaded.probabilities(), expected.probabilities())


def test_a_config_says_how_it_is_run_and_may_name_defaults(checkpoint):
    model = {**tiny_section("feelvos"), "k_nearest": 1, "dropout": 0.1}
    config = ConfigDict({"model": model, "inference": {"flip": True, "slots": 7}})
    inference = build_inference(load_variables(checkpoint, config)[1])
    assert inference.model.flip and inference.slots == 7
    plain = build_inference(load_variables(checkpoint)[1])
    assert plain.model == inference.model.model and plain.slots == 0


def test_a_config_may_run_a_checkpoint_with_another_precision(checkpoint):
    config = ConfigDict({"model": {**tiny_section("feelvos"), "precision": "x3"}})
    assert load_variables(checkpoint)[1].model.get("precision", "highest") == "highest"
    assert build_inference(load_variables(checkpoint, config)[1]).model.precision == "x3"


def test_another_model_than_the_checkpoint_holds_is_refused_with_the_fields(checkpoint):
    other = ConfigDict({"model": {**tiny_section("feelvos"), "embedding_dim": 12}})
    with pytest.raises(ValueError, match=r"another model .*\n  model\.embedding_dim: 6 -> 12\n"):
        vos_jax.load(checkpoint, other)
    with pytest.raises(ValueError, match="model.name: 'feelvos' -> 'cfbi'"):
        vos_jax.load(checkpoint, ConfigDict({"model": {"name": "cfbi"}}))


def test_no_checkpoint_is_refused_with_what_is_expected(tmp_path):
    with pytest.raises(FileNotFoundError, match="is no checkpoint .*written by vos_jax.convert"):
        vos_jax.load(tmp_path)


def test_all_public_names_exist_and_have_docstrings():
    assert set(vos_jax.__all__) <= set(dir(vos_jax))
    for name in vos_jax.__all__:
        public = getattr(vos_jax, name)
        assert name == "SYSTEMS" or len(public.__doc__) > 60, name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        vos_jax.nothing  # noqa: B018


def test_importing_the_package_imports_neither_jax_nor_tensorflow():
    code = (
        "import sys, vos_jax\n"
        "assert not {'jax', 'flax', 'tensorflow'} & set(sys.modules)\n"
        "assert callable(vos_jax.score)  # a command has its name\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
