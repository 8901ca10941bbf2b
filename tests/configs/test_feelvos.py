"""configs/feelvos.py: every preset is a model with its optimizer; `paper` has published numbers."""

import functools

import jax
import pytest

from vos_jax.configs.feelvos import ABLATION, PRESETS, get_config
from vos_jax.systems.build import build_model, variable_shapes
from vos_jax.train.optim import build_schedule, check_patterns, fits, parameter_paths


@functools.cache
def shapes(preset):
    """The variables of a preset's training model, as shapes.

    Presets that share the model of `paper` but for its cues get a backbone that is traced sooner.
    """
    config = get_config(preset)
    swapped = {"backbone": "mobilenet_v2"} if preset in (*ABLATION, "paper_davis") else {}
    return variable_shapes(build_model(config.model, **config.train.model, **swapped))


def count(tree) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_builds_a_model_whose_optimizer_patterns_fit(preset):
    config, params = get_config(preset), shapes(preset)["params"]
    check_patterns(config.optim, params)
    matching = ("first_frame_global", "previous_frame_local", "previous_frame_global")
    cues = sum(config.model[cue] for cue in (*matching, "previous_prediction"))
    first_kernel = params["head"]["layer0"]["depthwise"]["kernel"]
    assert first_kernel.shape == (7, 7, 1, config.model.features + cues)
    assert build_model(config.model).output_stride == config.model.output_stride


def test_paper_has_the_parameters_of_the_release():
    variables = shapes("paper")
    params, deeplab = variables["params"], variables["params"]["deeplab"]
    assert count(params) == 41_393_819
    assert count(variables["batch_stats"]) == 202_800
    assert count(deeplab["backbone"]) == 37_867_312
    decoder = {name: deeplab[name] for name in deeplab if name.startswith(("feature_", "decoder_"))}
    assert count(decoder) == 162_928
    assert count(params["embedding"]) == 28_260
    assert count(params["head"]) == 315_286 + 257


def test_paper_trains_as_published():
    config = get_config("paper")
    model, data, optim = config.model, config.data, config.optim
    assert (model.output_stride, config.train.model.output_stride) == (8, 16)
    assert (model.features, model.embedding_dim, model.window, model.k_nearest) == (
        256,
        100,
        15,
        1,
    )
    assert (model.samples, model.dropout, model.momentum) == (1024, 0.1, 0.9997)
    assert model.backbone_norm_eval and model.norm_eval and model.previous_mask == "hard"
    assert model.short_side == data.short_side == 0
    assert (data.crop, data.scale, data.flip) == ((465, 465), (1.0, 1.3), 0.5)
    assert (data.clip.frames, data.clip.max_gap, data.groups) == (3, 1, ((0,), (1, 2)))
    assert (config.train.num_given, config.train.teacher_forcing_steps) == (2, 200_000)
    assert (config.train.steps, config.train.batch, config.train.ema) == (200_000, 6, 0)
    assert (config.loss.fraction, config.loss.mining_steps) == (0.15, 100_000)
    assert config.loss.scale == 3  # a GPU's loss is the sum over its 3 videos
    assert (optim.name, optim.momentum, optim.nesterov) == ("sgd", 0.9, False)
    assert (optim.weight_decay, optim.clip, optim.clip_norm) == (4e-5, "per_parameter", 5)
    assert not optim.freeze and not optim.rate_multipliers


def test_paper_learning_rate_is_the_published_schedule():
    schedule = build_schedule(get_config("paper").optim)
    for step in (0, 50_000, 100_000, 199_999):
        expected = 7e-4 * (1 - step / 200_000) ** 0.9
        assert float(schedule(step)) == pytest.approx(expected, rel=1e-5)
    assert schedule(200_000) == schedule(200_004) == 0


def test_paper_decays_84_kernels_and_doubles_the_gradients_of_11_biases():
    optim = get_config("paper").optim
    paths = parameter_paths(shapes("paper")["params"])
    decayed = [path for path in paths if fits(optim.decay, path)]
    assert len(decayed) == 84
    assert not any("depthwise" in path or path.endswith(("bias", "scale")) for path in decayed)
    ((pattern, factor),) = optim.gradient_multipliers
    doubled = [path for path in paths if fits((pattern,), path)]
    assert factor == 2 and len(doubled) == 11
    assert not any("norm" in path for path in doubled)


def test_presets_differ_from_paper_only_where_they_should():
    paper, davis = get_config("paper").to_dict(), get_config("paper_davis").to_dict()
    assert sorted(paper["data"]["train"]) == ["davis", "youtube_vos"]
    del paper["data"]["train"]["youtube_vos"]
    assert davis == paper
    for preset, cues in ABLATION.items():
        row = get_config(preset).to_dict()
        names = ("first_frame_global", "previous_frame_local", "previous_frame_global")
        assert tuple(row["model"][n] for n in (*names, "previous_prediction")) == cues
        row["model"] = paper["model"]
        assert row == paper
    assert get_config("ablation_1").to_dict() == paper  # its first row is the whole method


def test_training_sets_are_mixed_with_equal_probability():
    for source in get_config("paper").data.train.values():
        assert source.weight == 1


def test_the_schedule_ends_with_the_run():
    config = get_config("quick")
    config.train.steps = 50
    assert config.optim.steps == 50


def test_an_unknown_preset_lists_the_known_ones():
    with pytest.raises(ValueError, match="no preset 'papr'; there are quick, small, paper, .*_6"):
        get_config("papr")
