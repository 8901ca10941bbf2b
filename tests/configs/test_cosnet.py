"""configs/cosnet.py: the published numbers, and what the rows of the tables differ in."""

import jax
import numpy as np
import pytest

from tests.fixtures import load_npz
from vos_jax.configs.cosnet import PRESETS, ROWS, get_config
from vos_jax.evaluation import _protocol
from vos_jax.inference.setup import build_inference
from vos_jax.systems.build import build_model, variable_shapes
from vos_jax.train.optim import build_schedule, fits, parameter_paths
from vos_jax.train.workdir import differing_fields


def test_paper_trains_as_the_release():
    config = get_config("paper")
    data, train, optim = config.data, config.train, config.optim
    assert (data.crop, data.fit, data.clip.frames, data.flip) == ((473, 473), "stretch", 2, 0.5)
    assert data.groups == ((0,), (1,)) and data.objects.merge and data.contrast
    assert (data.alternate.every, data.alternate.clip.choose) == (3, "still")
    assert not data.alternate.contrast and data.alternate.flip == 0
    assert (train.steps, train.batch, train.frames_apart) == (7800, 16, True)
    assert (optim.name, optim.momentum, optim.weight_decay) == ("sgd", 0.9, 5e-4)
    assert (config.loss.l1, config.loss.image_every, config.loss.image_weight) == (0.8, 3, 0.1)
    assert build_model(config.model, **train.model).pairs


def test_rates_are_those_of_the_release():
    """Its rows: step, epoch, steps of the run, rate of the encoder, rate of what comes after it."""
    optim = get_config("paper").optim
    for step, _, steps, encoder, rest in load_npz("cosnet", "ops")["lr_rows"]:
        optim.steps, optim.boundaries = int(steps), (int(steps) // 10,)  # 6 of 60 epochs
        rate = float(build_schedule(optim)(int(step)))
        (_, of_encoder), (_, of_rest) = optim.rate_multipliers
        found = [rate * factors[int(step) % 3] for factors in (of_encoder, of_rest)]
        np.testing.assert_allclose(found, [encoder, rest], rtol=1e-5)


def test_paper_freezes_what_the_release_freezes():
    """Scales and biases of the norms of the four downsampled shortcuts."""
    optim = get_config("paper").optim
    shapes = variable_shapes(build_model(get_config("paper").model))["params"]
    paths = parameter_paths(shapes)
    frozen = [path for path in paths if fits(tuple(optim.freeze), path)]
    assert len(frozen) == len(load_npz("cosnet", "train_step")["frozen"]) == 8
    patterns = [pattern for pattern, _ in optim.rate_multipliers]
    encoder = [path for path in paths if fits(patterns[:1], path)]
    assert {path.split("/")[0] for path in encoder} == {"encoder", "encoder_logits"}


def test_an_imported_checkpoint_runs_in_the_form_that_made_it():
    model = build_inference(get_config("paper")).model
    assert model.legacy_double_softmax and not model.gate_bias
    assert (model.attention, model.fusion, model.selection) == ("vanilla", "prediction", "random")
    assert (model.num_references, model.size) == (5, (473, 473))
    assert model == build_inference(get_config("paper_fbms")).model
    assert model == build_inference(get_config("paper_youtube_objects")).model


def test_the_papers_form_differs_from_the_releases_in_what_the_paper_says():
    lines = differing_fields(get_config("paper"), get_config("paper_slides"))
    assert {line.partition(":")[0] for line in lines} == {
        *("model.attention", "model.gate_bias", "loss.l1", "inference.fusion"),
        *("inference.selection", "inference.legacy_double_softmax", "inference.crf"),
    }


@pytest.mark.parametrize(("row", "fields"), ROWS.items(), ids=list(ROWS))
def test_a_row_changes_what_its_name_says_and_nothing_else(row, fields):
    for name, base in ((row, "paper_slides"), (f"{row}_quick", "quick")):
        config = get_config(name)
        changed = differing_fields(get_config(base), config)
        assert {line.partition(":")[0].partition(".")[2] for line in changed} <= fields.keys()
        model = build_inference(config).model
        assert all(getattr(model, field) == value for field, value in fields.items())
        assert (build_inference(config).crf is not None) == (base == "paper_slides")


def test_every_set_is_scored_by_its_own_protocol():
    protocols = {preset: get_config(preset).eval.protocol for preset in PRESETS}
    assert protocols.pop("paper_fbms") == "fbms"
    assert protocols.pop("paper_youtube_objects") == "youtube-objects"
    assert set(protocols.values()) == {"davis2016"}
    measures = {preset: _protocol(get_config(preset).eval).measures for preset in PRESETS}
    assert measures["paper"] == measures["small"] == ("J", "F", "T")
    assert measures["quick"] == ("J", "F") and measures["paper_fbms"] == ("J",)


def test_quick_is_small():
    shapes = variable_shapes(build_model(get_config("quick").model))["params"]
    assert sum(x.size for x in jax.tree.leaves(shapes)) < 1.5e6
