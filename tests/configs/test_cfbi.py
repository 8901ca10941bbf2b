"""configs/cfbi.py and cfbi_plus.py: every preset is a model; `paper` has published numbers."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.fixtures import load_spec
from vos_jax.checkpoint_folder import export_variables
from vos_jax.configs import cfbi, cfbi_plus
from vos_jax.inference.setup import build_inference
from vos_jax.nn.deeplab_dense import DenseDeepLabV3Plus
from vos_jax.nn.mobilenet_v2 import MobileNetV2
from vos_jax.systems.build import build_model, variable_shapes
from vos_jax.train.initial import initial_variables
from vos_jax.train.optim import build_schedule, fits, map_with_path

SYSTEMS = {"cfbi": cfbi, "cfbi_plus": cfbi_plus}
PRESETS = [(name, preset) for name, system in SYSTEMS.items() for preset in system.PRESETS]


@functools.cache
def shapes(system, preset):
    config = SYSTEMS[system].get_config(preset)
    return variable_shapes(build_model(config.model, **config.train.model))


@pytest.mark.parametrize(("system", "preset"), PRESETS)
def test_every_preset_crops_to_the_networks_sizes_and_switches_in_the_middle(system, preset):
    config = SYSTEMS[system].get_config(preset)
    assert all(side % 16 == 1 for side in config.data.crop)
    assert config.train.teacher_forcing_steps == config.loss.mining_steps == config.train.steps // 2


@pytest.mark.parametrize(("system", "release"), [("cfbi", "cfbi"), ("cfbi_plus", "cfbiplus")])
def test_paper_trains_the_parameters_of_the_release(system, release):
    """All but the 113 frozen batch normalisations, whose four vectors the release calls buffers."""
    spec = load_spec(release)
    trained = sum(math.prod(dict(spec["params"])[name]) for name in spec["trainable"])
    variables = shapes(system, "paper")
    freeze = tuple(SYSTEMS[system].get_config("paper").optim.freeze)
    kept = map_with_path(lambda path, x: 0 if fits(freeze, path) else x.size, variables["params"])
    assert sum(jax.tree.leaves(kept)) == trained
    frozen = sum(size == 0 for size in jax.tree.leaves(kept))
    assert frozen == len(jax.tree.leaves(variables["batch_stats"])) == 226


@pytest.mark.parametrize("system", SYSTEMS)
def test_paper_trains_as_published(system):
    config = SYSTEMS[system].get_config("paper")
    data, train, optim = config.data, config.train, config.optim
    assert (data.crop, data.short_side, data.scale) == ((465, 465), 480, (1.0, 1.3))
    assert (data.clip.frames, data.clip.max_gap, data.max_objects) == (5, 3, 5)
    assert (train.steps, train.batch, train.ema, train.num_given) == (100_000, 8, 0, 2)
    assert (train.teacher_forcing_steps, config.loss.mining_steps) == (50_000, 50_000)
    assert (optim.name, optim.momentum, optim.nesterov) == ("sgd", 0.9, True)
    assert (optim.clip, optim.clip_norm, optim.weight_decay) == ("global", 5, 1.5e-4)
    paths = ["bias", "ensembler/stage1_layer1/gct/beta", "background_bias", "deeplab/aspp0/kernel"]
    assert all(fits(optim.decay, path) for path in paths)
    assert list(data.train) == ["youtube_vos"]


def test_learning_rate_is_that_of_the_trainer():
    def trainer(step, base=0.01, total=100_000):
        rate = base * step / 1000
        if step >= 1000:
            rate = base * (1 - (step - 1000) / (total - 1000 + 1)) ** 0.9
        return max(rate, 1e-5)

    schedule = build_schedule(cfbi.get_config("paper").optim)
    for step in (0, 1, 500, 999, 1000, 1001, 50_000, 99_900, 99_990, 99_999, 100_000):
        assert float(schedule(step)) == pytest.approx(trainer(step), rel=2e-5), step
    assert schedule(0) == schedule(99_999) == np.float32(1e-5)


def test_what_ends_with_the_run_or_changes_in_its_middle_follows_its_length():
    config = cfbi.get_config("paper")
    config.train.steps = 40
    assert (config.optim.steps, config.train.teacher_forcing_steps, config.loss.mining_steps) == (
        41,
        20,
        20,
    )
    config.train.teacher_forcing_steps = 0  # and can be set apart
    assert (config.train.steps, config.loss.mining_steps) == (40, 20)


def test_rows_of_the_background_table_switch_the_background():
    davis = cfbi.get_config("paper_davis").to_dict()
    rows = {}
    for preset, switches in cfbi.BACKGROUND.items():
        row = cfbi.get_config(preset).to_dict()
        names = ("background_matching", "background_attention", "matching_bias")
        assert tuple(row["model"][name] for name in names) == switches
        rows[switches] = row["model"].copy()
        row["model"] = davis["model"]
        assert row == davis
        quick = cfbi.get_config(f"{preset}_quick")
        assert tuple(quick.model[name] for name in names) == switches
        assert quick.train.to_dict() == cfbi.get_config("quick").train.to_dict()
    assert rows.pop((True, True, True)) == davis["model"]
    assert len(rows) == 4


def test_rows_of_the_atrous_table_change_inference_alone():
    paper = cfbi.get_config("paper")
    for kind in ("global", "local"):
        for rate in (1, 2, 3, 4):
            row = cfbi.get_config(f"ablation_{kind}_{rate}")
            model = build_inference(row).model
            assert (model.global_rates, model.local_rates) == (
                ((rate,), (1,)) if kind == "global" else ((1,), (rate,))
            )
            expected = {**paper.to_dict(), "inference": row.inference.to_dict()}
            assert row.to_dict() == expected


def test_windows_of_code_and_paper_differ_in_cfbi_plus_at_stride_16_alone():
    code = build_model(cfbi_plus.get_config("paper").model)
    paper = build_model(cfbi_plus.get_config("paper_windows").model)
    assert code.scale_windows[2] == (2, 4, 6, 8, 10)
    assert paper.scale_windows[2] == (4, 6, 8, 10)
    assert code.scale_windows[:2] == paper.scale_windows[:2]
    explicit = build_model({"name": "cfbi", "windows": [[1, 2]]})
    assert explicit.scale_windows == ((1, 2),)
    with pytest.raises(ValueError, match="windows: expected code or paper.*found 'release'"):
        build_model({"name": "cfbi", "windows": "release"}).scale_windows  # noqa: B018


def test_davis_inference_of_cfbi_plus_matches_small_objects_whole():
    config = cfbi_plus.get_config("paper_davis")
    assert (config.model.min_pixels, build_inference(config).model.min_pixels) == (0, 100)
    assert build_inference(cfbi_plus.get_config("paper")).model.min_pixels == 0


def test_an_unknown_preset_lists_the_known_ones():
    for system in SYSTEMS.values():
        with pytest.raises(ValueError, match="no preset 'papr'; there are quick, small, paper, "):
            system.get_config("papr")


# ---- pretrained backbones ----


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_converted_mobilenet_becomes_the_backbone(system, tmp_path, monkeypatch):
    config = SYSTEMS[system].get_config("quick")
    net = MobileNetV2(width=config.model.width, last_conv=True)  # what it does not read is left
    target = jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, 33, 33, 3)))
    rng = np.random.default_rng(0)
    loaded = jax.tree.map(lambda x: rng.uniform(size=x.shape).astype(np.float32), dict(target))
    export_variables(tmp_path, loaded, {"model": {"name": "mobilenet_v2"}}, {})
    config.init.backbone = str(tmp_path)
    zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes(system, "quick"))
    monkeypatch.setattr("vos_jax.train.initial.init_variables", lambda model, rng: zeros)
    found = initial_variables(build_model(config.model), config.init, 0)
    for collection in ("params", "batch_stats"):
        backbone = found[collection]["deeplab"]["backbone"]
        assert sorted(backbone) == sorted(f"features_{i}" for i in range(18))
        jax.tree.map(
            np.testing.assert_array_equal,
            backbone,
            {name: loaded[collection][name] for name in backbone},
        )


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_converted_deeplab_has_every_array_of_the_large_network_below_its_scope(system):
    model = build_model(SYSTEMS[system].get_config("paper").model)
    assert model.traits.backbone_scopes == (("deeplab",),)
    converted = DenseDeepLabV3Plus()  # as `convert --model deeplabv3plus_resnet101` builds it
    target = jax.eval_shape(converted.init, jax.random.key(0), jnp.zeros((1, 33, 33, 3)))
    ours = {name: tree["deeplab"] for name, tree in shapes(system, "paper").items()}
    assert jax.tree.map(np.shape, ours) == jax.tree.map(np.shape, dict(target))
