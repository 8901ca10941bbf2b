"""The convert command: official file in, folder out, and its errors."""

import json

import jax
import numpy as np
import pytest

from tests.fixtures import GOLDEN, fixture, golden_parameters, load_spec
from vos_jax import convert
from vos_jax.checkpoint_folder import import_variables


@pytest.fixture(scope="module")
def torchvision():
    spec = json.loads((GOLDEN / "mobilenet_v2" / "spec.json").read_text())
    return golden_parameters(spec)


@pytest.fixture
def npz(torchvision, tmp_path):
    np.savez(tmp_path / "official.npz", **torchvision)
    return tmp_path / "official.npz"


def _run(model, source, out, *more):
    convert.main(["convert", f"--model={model}", f"--source={source}", f"--out={out}", *more])


def test_backbone_folder_holds_official_values_and_origin(npz, torchvision, tmp_path, capsys):
    _run("mobilenet_v2", npz, tmp_path / "out")
    variables, config = import_variables(tmp_path / "out")
    assert config == {"model": {"name": "mobilenet_v2"}}
    mean = variables["batch_stats"]["features_7"]["project"]["norm"]["mean"]
    np.testing.assert_array_equal(mean, torchvision["features.7.conv.3.running_mean"])
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["source"] == str(npz) and "classifier.1.bias" in manifest["unused"]
    printed = capsys.readouterr().out
    assert "255 arrays, 1,811,712 parameters" in printed and "classifier.1.weight" in printed


@pytest.mark.parametrize("prefix", ["backbone.", "model.net.", "a.b.c."])
def test_a_prefix_of_all_names_is_left_out_and_told(torchvision, tmp_path, capsys, prefix):
    np.savez(tmp_path / "p.npz", **{prefix + name: x for name, x in torchvision.items()})
    _run("mobilenet_v2", tmp_path / "p.npz", tmp_path / "out")
    printed = capsys.readouterr()
    assert "255 arrays" in printed.out and f"prefix {prefix!r} of all names" in printed.err


def test_a_prefix_of_some_names_is_named_with_what_to_do(torchvision, tmp_path):
    arrays = {"module.encoder_q." + name: x for name, x in torchvision.items()}
    np.savez(tmp_path / "p.npz", **arrays, queue=np.zeros(3))
    with pytest.raises(SystemExit, match="prefix 'encoder_q.' fit, but there are 1 others"):
        _run("mobilenet_v2", tmp_path / "p.npz", tmp_path / "out")


def test_weights_that_are_not_finite_are_refused_by_name(torchvision, tmp_path):
    wrong = torchvision | {"features.0.0.weight": torchvision["features.0.0.weight"] * np.nan}
    np.savez(tmp_path / "n.npz", **wrong)
    with pytest.raises(SystemExit, match=r"not finite.*\n.*\n  features\.0\.0\.weight .*864 val"):
        _run("mobilenet_v2", tmp_path / "n.npz", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_feelvos_is_built_from_its_paper_config(monkeypatch, tmp_path):
    arrays = golden_parameters(load_spec("feelvos"))
    monkeypatch.setattr(convert, "read_arrays", lambda path: arrays)
    written = {}
    monkeypatch.setattr(
        convert,
        "export_variables",
        lambda out, variables, config, manifest: written.update(tree=variables, config=config),
    )
    _run("feelvos", "model.ckpt-200004", tmp_path / "out")
    assert len(jax.tree.leaves(written["tree"])) == 752
    assert written["config"].model.output_stride == 8
    bias = written["tree"]["params"]["head"]["logits"]["bias"]
    np.testing.assert_array_equal(bias, arrays["logits/semantic/biases"])


def test_checkpoint_that_does_not_fit_ends_with_file_and_names(tmp_path):
    source = fixture("feelvos") / "tiny_ckpt" / "model.ckpt-200004"
    with pytest.raises(SystemExit) as stop:
        _run("xception_65", source, tmp_path / "out")
    message = str(stop.value.code)
    assert message.startswith(f"error: {source} as xception_65: the checkpoint does not fit")
    assert "xception_65/entry_flow/conv1_2/weights (for params/conv1_2/conv/kernel" in message
    assert not (tmp_path / "out").exists()


def test_folder_that_is_not_empty_is_refused(npz, tmp_path):
    with pytest.raises(SystemExit, match="not empty"):
        _run("mobilenet_v2", npz, tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--model=resnet --source=a.npz --out=b", "feelvos"),
        ("--model=mobilenet_v2 --out=b", "missing --source"),
        ("--model=mobilenet_v2 --source=nowhere.npz --out=b", "no checkpoint at nowhere.npz"),
        (
            f"--model=xception_65 --source=a --out=b --config={convert.default_config('feelvos')}",
            "the backbone xception_65 needs none",
        ),
    ],
)
def test_wrong_command_line_ends_with_one_readable_line(arguments, message):
    with pytest.raises(SystemExit, match=message):
        convert.main(["convert", *arguments.split(" ")])


def test_config_of_another_system_is_refused(tmp_path):
    other = tmp_path / "other.py"
    other.write_text(
        "from ml_collections import ConfigDict\n"
        "def get_config(preset=''):\n    return ConfigDict({'model': {'name': 'stm'}})\n"
    )
    with pytest.raises(SystemExit, match="--model feelvos: the config describes 'stm'"):
        _run("feelvos", "a.npz", tmp_path / "out", f"--config={other}")
