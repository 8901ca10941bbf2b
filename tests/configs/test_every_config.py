"""What holds for every preset of every file of configs/."""

import ast
import importlib
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from vos_jax.data.stages import training_examples
from vos_jax.inference.setup import build_inference
from vos_jax.inference.vis_setup import build_vis_inference
from vos_jax.presets import common
from vos_jax.presets.checks import check_config
from vos_jax.systems.build import build_model, variable_shapes
from vos_jax.systems.table import SYSTEMS, systems_of
from vos_jax.tasks import task_of
from vos_jax.train.optim import build_schedule, check_patterns


def task(file):
    """Of the system that a file of configs is named for."""
    return SYSTEMS[file].task


FILES = sorted(Path(__file__).parents[2].glob("configs/[!_]*.py"))
MODULES = {file.stem: importlib.import_module(f"vos_jax.configs.{file.stem}") for file in FILES}
PRESETS = [(name, preset) for name, module in MODULES.items() for preset in module.PRESETS]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_config_file_imports_nothing_of_ours_but_vos_jax(file):
    """So that a copy of it works from any folder."""
    tree = ast.parse(file.read_text())
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    imported |= {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    assert {name.split(".")[0] for name in imported} == {"ml_collections", "vos_jax"}


def test_every_system_has_a_config_of_its_name_whose_default_is_quick():
    own = {name for name, system in SYSTEMS.items() if not system.config}
    assert MODULES.keys() == own
    for system in set(SYSTEMS) - own:  # others share a file
        file, preset = SYSTEMS[system].config.split(".py:")
        assert {preset, f"{preset}_quick"} <= set(MODULES[file].PRESETS)
        assert MODULES[file].get_config(preset).model.name == system
    for name, module in MODULES.items():
        assert module.get_config().to_json() == module.get_config("quick").to_json(), name
        assert {"quick", "small", "paper"} <= set(module.PRESETS)
        with pytest.raises(ValueError, match=f"configs/{name}.py: no preset 'none'; there are q"):
            module.get_config("none")


@pytest.mark.parametrize(("name", "preset"), PRESETS)
def test_every_preset_runs_as_a_model_with_a_schedule(name, preset):
    config = MODULES[name].get_config(preset)
    check_config(config)
    build = {"vos": build_inference, "vis": build_vis_inference}
    if "propagation" in config.inference:
        config.inference.propagation = "the user's own"  # a checkpoint that one preset asks for
    build[SYSTEMS[config.model.name].task](config)
    rate = build_schedule(config.optim)(config.train.steps // 2)
    assert 0 < rate <= config.optim.learning_rate


@pytest.mark.parametrize(("name", "preset"), [x for x in PRESETS if task(x[0]) == "vos"])
def test_every_preset_of_label_maps_has_clips(name, preset):
    config = MODULES[name].get_config(preset)
    common.use_synthetic(config)
    for stage in ("pretrain", "alternate"):
        if "train" in config.data[stage]:
            config.data[stage].train = config.data.train
    frames = len(training_examples(config).columns()["frames"])
    assert frames == config.data.clip.frames > config.train.num_given
    assert sorted(sum(config.data.groups, ())) == list(range(frames))


@pytest.mark.parametrize(("name", "preset"), [x for x in PRESETS if task(x[0]) == "vis"])
def test_every_preset_of_instances_has_examples_that_its_canvas_fits(name, preset):
    config = MODULES[name].get_config(preset)
    synthetic = {"synthetic": {"kind": "synthetic_vis", "split": "train"}}
    config.data.train = ConfigDict(synthetic)
    columns = task_of(config).examples(config).columns()
    assert len(columns["frames"]) == config.data.clip.frames
    assert all(side % 32 == 0 for side in config.data.crop)
    assert max(config.inference.image_scale) == max(config.data.sides)


@pytest.mark.parametrize(("name", "preset"), PRESETS)
def test_every_preset_has_every_key_of_the_shared_sections_and_no_other(name, preset):
    config = MODULES[name].get_config(preset)
    shared = common.new_config(config.model.name)
    assert config.keys() == shared.keys()
    for section in ("data", "train", "optim", "eval", "mesh", "log", "init", "loss"):
        assert config[section].keys() == shared[section].keys(), section
    for part in {"clip", "warp", "balance"} & set(shared.data):
        assert config.data[part].keys() == shared.data[part].keys(), part
    assert config.model.keys() == shared.model.keys()
    assert set(config.inference) >= set(shared.inference)


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize("preset", ["quick", "small", "paper"])
def test_every_pattern_of_the_optimizer_fits_a_parameter(name, preset):
    config = MODULES[name].get_config(preset)
    model = build_model(config.model, **config.train.model)
    check_patterns(config.optim, variable_shapes(model)["params"])


@pytest.mark.parametrize("name", systems_of("vos"))
def test_the_fields_of_the_model_and_of_inference_are_those_of_the_module(name):
    """One set of defaults: a fresh config describes the module as it is declared."""
    config = common.new_config(name)
    assert build_inference(config).model == SYSTEMS[name].model()
