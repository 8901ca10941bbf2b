"""The presets of MaskProp: what each changes, and that all of them can be run."""

import pytest

from vos_jax.configs import maskprop
from vos_jax.inference.vis_setup import build_vis_inference
from vos_jax.presets.checks import check_config


def flat(config):
    return {
        f"{section}.{field}": value
        for section in ("model", "loss", "inference")
        for field, value in config[section].items()
    }


def difference(preset, base):
    """Fields of a preset that are others in `base`."""
    ours, theirs = (flat(maskprop.get_config(name)) for name in (preset, base))
    return {name: value for name, value in ours.items() if value != theirs[name]}


@pytest.mark.parametrize("preset", maskprop.PRESETS)
def test_every_preset_keeps_the_rules_of_its_fields_and_builds(preset):
    config = maskprop.get_config(preset)
    check_config(config)
    config.inference.propagation = "a checkpoint"
    inference = build_vis_inference(config)
    reach = config.inference.reach
    assert inference.model.delay == reach
    assert config.data.clip.frames == 3 and config.data.clip.choose == "around"
    assert max(config.optim.boundaries, default=0) < config.train.steps


@pytest.mark.parametrize("twin, base", [("", "paper"), ("_quick", "quick")])
def test_rows_differ_from_their_base_in_what_their_names_say(twin, base):
    expected = {
        "ablation_flow": {"inference.linker": "flow"},
        "ablation_deepsort": {"inference.linker": "deepsort"},
        "ablation_feelvos": {"inference.linker": "propagation"},
        "ablation_reach_0": {"inference.reach": 0},
        "ablation_reach_2": {"inference.reach": 2},
        "ablation_reach_6": {},
        "ablation_no_refinement": {"model.refined_side": 0},
    }
    for row, changes in expected.items():
        assert difference(row + twin, base) == changes
    found = difference("ablation_track_head" + twin, base)
    trains = {} if base == "quick" else {"loss.track_weight": 1.0}  # quick always does
    assert found == {"inference.linker": "track_head", **trains}


def test_papers_differ_in_their_backbones():
    assert difference("paper_r50", "paper") == {}
    assert difference("paper_r101", "paper") == {"model.depth": 101}
    groups = {"model.groups": 64, "model.group_width": 4}
    assert difference("paper_x101", "paper") == {"model.depth": 101, **groups}
    assert difference("paper_images", "paper") == {"model.classes": 80}


def test_quick_compares_all_linkers_that_need_no_other_network():
    config = maskprop.get_config()
    assert set(config.eval.linkers) == {"model", "track_head", "iou", "flow", "deepsort"}
