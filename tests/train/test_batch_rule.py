"""Every paper preset of every config on 1 to 32 devices."""

import importlib
import math

import numpy as np
import pytest

from vos_jax.checkpoint_folder import plain_config
from vos_jax.command_line import carried_configs
from vos_jax.presets.checks import check_config
from vos_jax.train.batch_rule import fit_batch, scale_batch
from vos_jax.train.optim import build_schedule

MODULES = {name: importlib.import_module(f"vos_jax.configs.{name}") for name in carried_configs()}
PAPERS = [
    (name, preset)
    for name, module in MODULES.items()
    for preset in module.PRESETS
    if preset.startswith("paper")
]
DEVICES = (1, 2, 4, 8, 32)


def paper(name="feelvos", preset="paper", **optim):
    config = MODULES[name].get_config(preset)
    config.optim.update(optim)
    return config


@pytest.mark.parametrize("rule", ["linear", "sqrt"])
@pytest.mark.parametrize("devices", DEVICES)
@pytest.mark.parametrize(("name", "preset"), PAPERS)
def test_every_paper_preset_starts_and_sees_as_many_clips_at_rates_by_the_rule(
    name, preset, devices, rule
):
    asked = paper(name, preset, scale_rule=rule)
    before = plain_config(asked)
    config, changes = fit_batch(asked, devices)
    assert plain_config(asked) == before  # it is left alone
    check_config(config)
    batch = config.train.batch
    assert batch % devices == 0 and 0 <= batch - asked.train.batch < devices
    assert (changes == []) is (batch == asked.train.batch) is (config is asked)
    assert abs(config.train.steps * batch - asked.train.steps * asked.train.batch) <= batch / 2

    ratio = batch / asked.train.batch
    factor = ratio if rule == "linear" else math.sqrt(ratio)
    old, new = build_schedule(asked.optim), build_schedule(config.optim)
    # steps are whole: a rate that falls in many small steps may be one of them behind
    late = 1 - asked.optim.decay_factor if len(asked.optim.boundaries) > 10 else 0.0
    for progress in (0.0, 0.003, 0.01, 0.3, 0.7, 0.99):
        step = round(progress * config.train.steps)
        wanted = factor * float(old(round(step * ratio)))
        np.testing.assert_allclose(float(new(step)), wanted, rtol=1e-2 + late, atol=1e-12)


@pytest.mark.parametrize("devices", DEVICES)
@pytest.mark.parametrize(("name", "preset"), PAPERS)
def test_without_a_rule_a_batch_fits_or_is_refused_with_what_would(name, preset, devices):
    asked = paper(name, preset)
    batch = asked.train.batch
    if batch % devices == 0:
        assert fit_batch(asked, devices) == (asked, [])
        return
    fitting = -(-batch // devices) * devices
    with pytest.raises(ValueError) as refused:
        fit_batch(asked, devices)
    message = str(refused.value)
    assert f"train.batch={batch} in 1 micro-batch(es) cannot be split over {devices} d" in message
    assert f"the next that can is {fitting}. --config.optim.scale_rule=linear takes" in message
    linear, _ = fit_batch(paper(name, preset, scale_rule="linear"), devices)
    assert f"rate {linear.optim.learning_rate:.4g} instead of" in message
    assert f"and {linear.train.steps} steps instead of {asked.train.steps}, so" in message


def test_what_is_told_names_every_field_that_changed():
    _, changes = fit_batch(paper(scale_rule="linear"), 8)
    assert changes == [
        "eval.every: 10000 -> 7500",
        "loss.mining_steps: 100000 -> 75000",
        "optim.learning_rate: 0.0007 -> 0.0009333333333333333",
        "optim.steps: 200000 -> 150000",
        "train.batch: 6 -> 8",
        "train.steps: 200000 -> 150000",
        "train.teacher_forcing_steps: 200000 -> 150000",
        "1200000 clips are seen, as before",
    ]


def test_what_counts_steps_is_divided_and_what_counts_examples_or_turns_stays():
    asked = paper("stm", scale_rule="linear")
    config, changes = fit_batch(asked, 8)
    assert config.data.pretrain.steps * 8 == asked.data.pretrain.steps * 4
    assert config.data.clip.growth == asked.data.clip.growth  # in examples
    asked.optim.update({"warmup_steps": 99, "boundaries": (1000, 2000), "floor": 1e-6})
    asked.train.update({"ema": 0.99, "teacher_forcing_steps": 0})
    asked.data.alternate.every = 3
    config = scale_batch(asked, 16)
    assert config.optim.warmup_steps == 25  # 24.75
    assert config.optim.boundaries == (250, 500)
    assert config.optim.floor == pytest.approx(4e-6)
    assert config.train.ema == pytest.approx(0.99**4)
    assert config.train.teacher_forcing_steps == 0  # never stays never
    same = ("train.save_steps", "log.every", "data.alternate.every", "optim.momentum")
    for field in same:
        section, name = field.rsplit(".", 1)
        assert config[section][name] == asked[section][name], field


def test_a_schedule_that_follows_the_run_does_so_exactly_and_one_set_apart_is_divided():
    asked = paper("cfbi", scale_rule="linear")
    config = scale_batch(asked, 32)
    assert asked.optim.steps == asked.train.steps + 1 and config.train.steps == 25_000
    assert config.optim.steps == 25_001
    config.train.steps = 40_000
    assert config.optim.steps == 40_001  # it still follows
    asked.optim.steps = 300_000
    assert scale_batch(asked, 32).optim.steps == 75_000


def test_steps_that_do_not_divide_are_rounded_and_the_difference_is_told():
    asked = paper(scale_rule="linear")
    asked.train.steps = 1001
    config, changes = fit_batch(asked, 8)
    assert config.train.steps == 751
    assert changes[-1] == "6008 clips are seen instead of 6006: steps are whole"


def test_micro_batches_count_as_devices_do():
    asked = paper(scale_rule="linear")
    asked.train.accumulate = 4
    assert fit_batch(asked, 2)[0].train.batch == 8
    asked.optim.scale_rule = "none"
    with pytest.raises(ValueError, match=r"batch=6 in 4 micro-batch\(es\).* can is 8\."):
        fit_batch(asked, 2)


def test_boundaries_that_would_become_one_are_refused():
    asked = paper(scale_rule="linear", boundaries=(10, 11))
    with pytest.raises(ValueError, match=r"optim.boundaries=\(10, 11\) would be \(2, 2\).* of 32"):
        fit_batch(asked, 32)


def test_a_run_that_goes_on_keeps_its_batch_on_any_devices():
    asked = paper(scale_rule="linear")
    begun = plain_config(fit_batch(asked, 8)[0])
    for devices in (1, 2, 4, 8):
        config, _ = fit_batch(asked, devices, begun)
        assert plain_config(config) == begun
    with pytest.raises(ValueError, match="of this workdir has batch 8, which 32 devices .* fewer"):
        fit_batch(asked, 32, begun)
    fitted = plain_config(asked)  # begun on 2 devices, where nothing was to be done
    assert fit_batch(asked, 6, fitted) == (asked, [])
    with pytest.raises(ValueError, match="has batch 6, which 8 devices"):
        fit_batch(asked, 8, fitted)
