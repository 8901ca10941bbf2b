"""configs/rvos.py: the published numbers, and what the rows of the tables differ in."""

import jax
import pytest

from vos_jax.configs.rvos import PRESETS, ROWS, ZERO_SHOT_ROWS, get_config
from vos_jax.inference.setup import build_inference
from vos_jax.systems.build import build_model, variable_shapes
from vos_jax.train.optim import build_schedule, fits, parameter_paths


def test_paper_has_the_parameters_of_the_release():
    """Without the classifier of the backbone."""
    sizes = {preset: _sizes(preset) for preset in ("paper", "paper_zero_shot")}
    assert sizes["paper"] == {"encoder": 46_408_800, "decoder": 2_940_433}
    mask_kernels = 4 * 9 * (128 + 64 + 32 + 16)
    assert sizes["paper_zero_shot"] == {"encoder": 46_408_800, "decoder": 2_940_433 - mask_kernels}


def _sizes(preset):
    params = variable_shapes(build_model(get_config(preset).model))["params"]
    return {name: sum(x.size for x in jax.tree.leaves(part)) for name, part in params.items()}


def test_paper_trains_as_published():
    config = get_config("paper")
    data, train, optim = config.data, config.train, config.optim
    assert (data.crop, data.fit, data.clip.frames) == ((256, 448), "stretch", 5)
    assert (data.clip.max_gap, data.flip, train.batch) == (1, 0.5, 4)
    assert train.steps == 2 * train.teacher_forcing_steps
    assert (train.num_given, train.frames_apart) == (0, True)
    rate = build_schedule(optim)
    assert rate(0) == rate(train.steps) == pytest.approx(1e-3) and optim.weight_decay == 1e-6
    shapes = variable_shapes(build_model(config.model))["params"]
    slow = {p for p in parameter_paths(shapes) if fits([optim.rate_multipliers[0][0]], p)}
    assert all("/backbone/" in path for path in slow)
    assert optim.rate_multipliers[0][1] == pytest.approx(1e-6 / 1e-3)
    assert list(data.train) == ["youtube_vos"]


def test_davis_is_fine_tuned_at_its_own_size_with_predicted_masks():
    for preset, epochs in {"paper_davis": 20, "paper_zero_shot_davis": 10}.items():
        config = get_config(preset)
        assert config.train.steps == epochs * 200 and config.train.teacher_forcing_steps == 0
        assert config.data.crop == build_inference(config).model.size == (240, 427)
        assert config.loss.visible_only and list(config.data.train) == ["davis"]


def test_rows_of_the_tables_differ_from_paper_only_where_they_should():
    for rows, preset in ((ROWS, "paper"), (ZERO_SHOT_ROWS, "paper_zero_shot")):
        paper = get_config(preset).to_dict()
        for row in rows:
            found = get_config(row).to_dict()
            assert found["model"] | {"mode": "st"} == paper["model"]
            assert found["model"]["mode"] in row.split("_")
            assert {**found, "model": 0, "train": 0, "optim": 0} == (
                {**paper, "model": 0, "train": 0, "optim": 0}
            )
    assert get_config("ablation_st_plus").to_json() == get_config("paper").to_json()
    first_stage = get_config("ablation_t").train
    assert first_stage.steps == first_stage.teacher_forcing_steps == 70_000


def test_presets_without_masks_propose_and_are_matched():
    for preset in PRESETS:
        config = get_config(preset)
        without = "zero_shot" in preset
        assert build_model(config.model).traits.guidance == ("either" if without else "masks")
        assert (config.eval.protocol == "davis2017-unsupervised") == without
        assert config.data.max_objects <= build_inference(config).model.proposals
        if without:
            assert config.train.teacher_forcing_steps == 0
