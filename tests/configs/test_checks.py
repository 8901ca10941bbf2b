"""Values that make no sense are refused by field before anything is written."""

import pytest

from vos_jax import main as command
from vos_jax.command_line import carried_configs
from vos_jax.presets.checks import check_config

WRONG = [
    ("feelvos", "seed", -1, "a whole number from 0"),
    ("feelvos", "data.crop", (0, 64), "2 values, each a whole number from 1"),
    ("feelvos", "data.crop", (64, 64, 64), "2 values"),
    ("feelvos", "data.crop", (10**9, 10**9), "to 16384"),
    ("feelvos", "data.scale", (1.3, 1.0), "lowest and highest"),
    ("feelvos", "data.scale", (0.0, 1.0), "above 0"),
    ("feelvos", "data.short_side", -5, "from 0"),
    ("feelvos", "data.interpolation", "bicubic", "one of linear, cubic"),
    ("feelvos", "data.flip", 1.5, "from 0 to 1"),
    ("feelvos", "data.flip", float("nan"), "from 0 to 1"),
    ("feelvos", "data.max_objects", 0, "from 1 to 254"),
    ("feelvos", "data.clip.frames", 0, "from 1"),
    ("feelvos", "data.clip.choose", "all", "one of"),
    ("feelvos", "data.groups", ((0,), (2,)), "each frame 0..2 of a clip .* once"),
    ("feelvos", "data.transport", "int8", "one of float32, float16, uint8"),
    (
        "cfbi",
        "data.transport",
        "uint8",
        "float32 or float16 where config.data.interpolation is cubic",
    ),
    ("feelvos", "data.processes", -1, "from 0 to 1024"),
    ("feelvos", "data.groups", (0, 1, 2), "values, each 1 or more values"),
    ("feelvos", "data.workers", 0, "from 1"),
    ("feelvos", "data.warp.zoom", (0.0, 1.0), "above 0"),
    ("feelvos", "data.on_bad_clip", "ignore", "raise, skip"),
    ("feelvos", "train.steps", 0, "from 1"),
    ("feelvos", "train.batch", -1, "from 1"),
    ("feelvos", "train.batch", {"a": 1}, "from 1"),
    ("feelvos", "eval.protocol", {"a": 1}, "one of davis2016"),
    ("feelvos", "data.fit", "pad", "crop, stretch"),
    ("feelvos", "data.objects.rule", "all", "matched, visible, largest"),
    ("feelvos", "train.ema", 1.0, "below 1"),
    ("feelvos", "train.num_given", 3, "fewer than the 3 frames"),
    ("feelvos", "train.save_steps", -1, "from 0"),
    ("feelvos", "train.keep_last", 0, "from 1"),
    ("feelvos", "optim.name", "adamw", "adam, sgd"),
    ("feelvos", "optim.learning_rate", 0.0, "above 0"),
    ("feelvos", "optim.learning_rate", float("inf"), "above 0"),
    ("feelvos", "optim.scale_rule", "cubic", "none, linear, sqrt"),
    ("feelvos", "optim.decay", ("(",), "a regular expression"),
    ("feelvos", "optim.freeze", (5,), "a regular expression"),
    ("feelvos", "optim.gradient_multipliers", (("bias",),), "a pair"),
    ("feelvos", "optim.rate_multipliers", (("bias", -1.0),), "factor from 0"),
    ("feelvos", "optim.boundaries", ("a",), "a whole number"),
    ("feelvos", "eval.protocol", "davis", "one of davis2016"),
    ("feelvos", "inference.slots", 255, "to 254"),
    ("feelvos", "inference.scales", (), "1 or more values"),
    ("feelvos", "mesh.fsdp", 0, "-1 or a whole number from 1"),
    ("feelvos", "log.every", 0, "from 1"),
    ("feelvos", "profile_steps", (3,), "first and last step"),
    ("feelvos", "profile_steps", (4, 3), "first and last step"),
    ("feelvos", "profile_steps", (0, 3), "each from 1"),
    ("feelvos", "loss.fraction", 0.0, "above 0"),
    ("feelvos", "model.dtype", "float64", "one of float32, bfloat16"),
    ("feelvos", "model.precision", "high", "one of highest, x3, default"),
    ("stm", "model.kernel_bytes", -1, "from 0"),
    ("feelvos", "model.features", 0, "from 1"),
    ("feelvos", "model.samples", 0, "from 1"),
    ("feelvos", "model.k_nearest", 10**8, "to 1024"),
    ("feelvos", "model.output_stride", 4, "8 or 16"),
    ("feelvos", "model.width", 0.0, "above 0"),
    ("feelvos", "model.dropout", 1.0, "below 1"),
    ("stm", "model.key_dim", -1, "from 1"),
    ("stm", "inference.memory_every", -1, "from 0"),
    ("stm", "inference.length", 0, "from 1"),
    ("cfbi", "model.matching_dims", (0,), "each a whole number from 1"),
    ("cfbi", "model.windows", ((),), "a text or"),
    ("cfbi_plus", "model.groups", 0, "from 1"),
]


def load(name, preset="quick"):
    return command.parse(["main", f"--config={name}:{preset}"]).config


@pytest.mark.parametrize("name", carried_configs())
def test_every_carried_config_keeps_the_rules(name):
    check_config(load(name))
    check_config(load(name, "paper"))


@pytest.mark.parametrize(("name", "field", "value", "expected"), WRONG)
def test_a_value_that_makes_no_sense_is_refused_by_its_field(name, field, value, expected):
    config = load(name)
    with config.ignore_type():
        config.update_from_flattened_dict({field: value})
    with pytest.raises(ValueError, match=rf"config\.{field}: expected .*{expected}") as error:
        check_config(config)
    assert len(str(error.value).splitlines()) == 1


def test_all_wrong_fields_are_named_at_once():
    config = load("stm")
    config.train.batch, config.data.workers = 0, 0
    with pytest.raises(ValueError, match=r"config\.data\.workers: .*\n.*config\.train\.batch: "):
        check_config(config)


def test_nothing_is_written_for_a_config_that_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for override in ("train.keep_last=0", "optim.freeze=('(',)", "model.features=0"):
        with pytest.raises(SystemExit, match=f"error: config.{override.partition('=')[0]}: "):
            command.main(["main", "--config=feelvos", f"--config.{override}"])
    assert not list(tmp_path.iterdir())
