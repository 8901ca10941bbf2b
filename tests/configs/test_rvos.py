"""configs/rvos.py: the published numbers, and what the rows of the tables differ in."""

import jax
import pytest

from vos_jax.configs.rvos import IMAGES, PRESETS, ROWS, ZERO_SHOT_ROWS, get_config
from vos_jax.inference.setup import build_inference
from vos_jax.presets.checks import check_config
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
    warp = data.warp
    assert warp.released and warp.shared  # one for a clip, of the release's form and ranges
    assert (warp.rotate, warp.shear, warp.zoom, warp.shift) == (10.0, 0.1, (0.7, 1.4), 0.1)


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
    for preset in set(PRESETS) - set(IMAGES):
        config = get_config(preset)
        without = "zero_shot" in preset
        assert build_model(config.model).traits.guidance == ("either" if without else "masks")
        assert (config.eval.protocol == "davis2017-unsupervised") == without
        assert config.data.max_objects <= build_inference(config).model.proposals
        if without:
            assert config.train.teacher_forcing_steps == 0


def test_rsis_has_the_parameters_of_the_release_and_trains_in_its_stages():
    config = get_config("rsis")
    sizes = _sizes("rsis")
    skip1 = 9 * 64 * 16 + 3 * 16  # kernel, bias and norm of the finest projection
    assert sizes["encoder"] == 46_408_800 + skip1
    levels = {128: 256, 64: 320, 32: 160, 16: 80, 8: 40}  # channels of the states -> of the input
    gates = sum(4 * n * (9 * c + 1) for n, c in levels.items())
    assert sizes["decoder"] == gates + 9 * 8 + 1
    assert sizes["heads"] == (21 + 1) * (248 + 1)
    loss, data, train = config.loss, config.data, config.train
    assert (loss.class_weight, loss.stop_weight, loss.class_from) == (0.1, 0.5, 20 * 380)
    assert 0 < loss.class_from < loss.stop_from < train.steps
    assert (data.crop, data.clip.frames, data.objects.rule) == ((256, 256), 1, "largest")
    assert train.batch == 28 and data.warp.released and len(data.classes) == 20


def test_what_finds_objects_of_images_has_as_many_slots_as_it_learns():
    for preset in IMAGES:
        config = get_config(preset)
        check_config(config)
        model = build_inference(config).model
        assert model.proposals == config.data.max_objects
        assert model.size == config.data.crop
        assert len(config.data.classes) == max(getattr(model, "classes", 0) - 1, 0)
        assert (config.eval.protocol, config.eval.metric) == ("instances", "AP50")
