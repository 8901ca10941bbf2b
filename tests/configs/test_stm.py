"""configs/stm.py: every preset is a model with its optimizer; `paper` has published numbers."""

import functools

import jax
import pytest

from vos_jax.configs.stm import MEMORIES, get_config
from vos_jax.presets.checks import check_config
from vos_jax.systems.build import build_model, variable_shapes
from vos_jax.train.optim import build_schedule


@functools.cache
def shapes(preset):
    config = get_config(preset)
    return variable_shapes(build_model(config.model, **config.train.model))


def test_paper_has_the_parameters_of_the_release():
    variables = shapes("paper")
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == 38_925_570


def test_paper_trains_as_published():
    config = get_config("paper")
    data, optim = config.data, config.optim
    assert (data.crop, data.clip.frames, config.train.batch) == ((384, 384), 3, 4)
    assert (data.clip.choose, data.pretrain.clip.choose) == ("ordered", "still")
    assert (data.clip.max_gap, data.clip.growth.step) == (26, 5)
    assert data.clip.growth.every == 20 * 3771
    assert (config.train.num_given, config.train.teacher_forcing_steps) == (1, 0)
    schedule = build_schedule(optim)
    assert optim.name == "adam" and schedule(0) == schedule(700_000) == pytest.approx(1e-5)
    assert data.pretrain.steps * config.train.batch == 2_000_000


def test_the_stills_and_the_memory_follow_the_length_of_a_clip():
    config = get_config("paper")
    assert config.train.model.length == config.data.pretrain.clip.frames == 3
    config.data.clip.frames = 8
    assert config.train.model.length == config.data.pretrain.clip.frames == 8
    check_config(config)
    config.train.model.length = 4
    assert config.data.clip.frames == 8


def test_rows_of_the_tables_differ_from_paper_only_where_they_should():
    paper = get_config("paper").to_dict()
    for preset, (first, previous, every) in MEMORIES.items():
        row = get_config(preset).to_dict()
        found = row["inference"]
        assert (found["memory_first"], found["memory_previous"]) == (first, previous)
        assert found["memory_every"] == every
        assert {**row, "inference": paper["inference"]} == paper
    assert get_config("ablation_main_only").data.pretrain.steps == 0
    alone = get_config("ablation_pretrain_only_quick")
    alone.train.steps = 30
    assert alone.data.pretrain.steps == alone.optim.steps == 30


def test_an_unknown_preset_lists_the_known_ones():
    with pytest.raises(
        ValueError, match="no preset 'papr'; there are quick, small, paper, paper_d"
    ):
        get_config("papr")
