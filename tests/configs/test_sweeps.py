"""Every point of a sweep is a config of its own that differs from its base in its knob alone."""

import pytest

from vos_jax.configs.stm import get_config as stm
from vos_jax.configs.sweeps.stm import POINTS, PRESETS, get_config
from vos_jax.data.stages import training_examples
from vos_jax.inference.setup import build_inference
from vos_jax.presets import common
from vos_jax.presets.checks import check_config
from vos_jax.train.workdir import differing_fields

MOVED = {
    "width": {"model.width"},
    "size": {"data.crop", "data.short_side"},
    "clip": {"data.clip.frames", "data.pretrain.clip.frames", "train.model.length"},
    "memory": {"inference.capacity"},
}


@pytest.mark.parametrize("preset", PRESETS)
def test_a_point_keeps_the_rules_and_runs_as_a_model_with_clips(preset):
    config = get_config(preset)
    check_config(config)
    build_inference(config)
    common.use_synthetic(config)
    config.data.pretrain.train = config.data.train
    frames = training_examples(config).columns()["frames"]
    assert len(frames) == config.data.clip.frames


@pytest.mark.parametrize("base", ["quick", "paper"])
def test_a_point_changes_what_its_knob_means_and_nothing_else(base):
    suffix, still = "_quick" if base == "quick" else "", 0
    for point in POINTS:
        lines = differing_fields(stm(base), get_config(point + suffix))
        changed = {line.partition(":")[0] for line in lines}
        assert changed in (set(), MOVED[point.partition("_")[0]]), point
        still += not changed
    assert still == 3  # width_1, size_1 and clip_3 are the base
    assert not differing_fields(stm(base), get_config(base))


def test_an_unknown_point_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="configs/sweeps/stm.py: no preset 'width_9'; there are q"):
        get_config("width_9")
