"""Reading official checkpoint files."""

import argparse
import contextlib
import pickle
import shutil
import sys
import types

import numpy as np
import pytest

from tests.fixtures import fixture, golden_parameters, load_spec
from vos_jax.official import checkpoint_files
from vos_jax.official.checkpoint_files import read_arguments, read_arrays

STEP = "model.ckpt-200004"


@pytest.fixture(scope="module")
def folder():
    return fixture("feelvos") / "tiny_ckpt"


@pytest.fixture(scope="module")
def tiny(folder):
    return read_arrays(folder / STEP)


def test_tensorflow_checkpoint_holds_the_values_of_the_rule(tiny):
    spec = load_spec("feelvos")
    expected = golden_parameters(spec)
    shapes = {name: list(value.shape) for name, value in tiny.items()}
    assert shapes == spec["tiny_ckpt"]["variables"]
    weights = set(tiny) & set(expected)
    assert len(weights) == len(tiny) - 2  # all but global_step and the Momentum slot
    for name in weights:
        np.testing.assert_array_equal(tiny[name], expected[name])


def test_checkpoint_text_file_is_not_needed_and_the_index_may_be_named(tiny, folder, tmp_path):
    for path in folder.glob(f"{STEP}.*"):
        shutil.copy(path, tmp_path)
    for path in (tmp_path / STEP, tmp_path / f"{STEP}.index"):
        assert read_arrays(path).keys() == tiny.keys()


def test_npz_equals_the_tensorflow_checkpoint_it_was_made_from(tiny, tmp_path):
    np.savez(tmp_path / "official.npz", **tiny)
    arrays = read_arrays(tmp_path / "official.npz")
    assert arrays.keys() == tiny.keys()
    for name, value in arrays.items():
        np.testing.assert_array_equal(value, tiny[name])


def test_prefix_of_data_parallel_is_removed(tmp_path):
    np.savez(
        tmp_path / "a.npz", **{"module.conv.weight": np.ones(2), "module.module.x": np.ones(1)}
    )
    assert set(read_arrays(tmp_path / "a.npz")) == {"conv.weight", "module.x"}


def _fake_torch(monkeypatch, loaded):
    """A stand-in for PyTorch whose load returns `loaded`; asserts how it is called.

    loaded: a function of the class of tensors, or a dict of such by what the file holds.
    """

    class Tensor:
        def __init__(self, value, dtype="float32", detached=False):
            self.value, self.dtype = np.asarray(value, np.float32), dtype
            self.detached = detached

        def float(self):
            return Tensor(self.value)

        def detach(self):
            return Tensor(self.value, self.dtype, detached=True)

        def numpy(self):
            assert self.detached, "a saved Parameter requires grad"
            assert self.dtype != "bfloat16", "numpy has no bfloat16"
            return self.value

    def load(file, map_location, weights_only):
        assert map_location == "cpu" and weights_only is True
        return (loaded[file.read()] if isinstance(loaded, dict) else loaded)(Tensor)

    torch = types.ModuleType("torch")
    torch.Tensor, torch.bfloat16, torch.load = Tensor, "bfloat16", load
    allowed = lambda classes: contextlib.nullcontext()  # noqa: E731
    torch.serialization = types.SimpleNamespace(safe_globals=allowed)
    monkeypatch.setitem(sys.modules, "torch", torch)


@pytest.mark.parametrize("wrapper", [None, "state_dict", "model"])
def test_pth_is_read_as_plain_tensors_out_of_its_wrapper(wrapper, monkeypatch, tmp_path):
    def loaded(tensor):
        state = {"module.w": tensor([1, 2]), "half": tensor([3], "bfloat16")}
        return {wrapper: state, "epoch": 7} if wrapper else {**state, "epoch": 7}

    _fake_torch(monkeypatch, loaded)
    (tmp_path / "a.pth").write_bytes(b"-")
    arrays = read_arrays(tmp_path / "a.pth")
    assert {name: value.tolist() for name, value in arrays.items()} == {"w": [1, 2], "half": [3]}


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda state: {"net": state, "optimizer": {"lr": 1}, "epoch": 7},
        lambda state: {"weights": {"state_dict": state}},
        lambda state: {"anything": state, "epoch": 7},
    ],
)
def test_pth_is_read_out_of_the_wrappers_that_trainers_use(wrapped, monkeypatch, tmp_path):
    _fake_torch(monkeypatch, lambda tensor: wrapped({"w": tensor([1, 2])}))
    (tmp_path / "a.pth").write_bytes(b"-")
    assert read_arrays(tmp_path / "a.pth")["w"].tolist() == [1, 2]


def test_npz_that_claims_more_than_any_model_has_is_refused_before_it_is_read(
    monkeypatch, tmp_path
):
    np.savez(tmp_path / "a.npz", w=np.zeros(400))
    monkeypatch.setattr(checkpoint_files, "MAX_BYTES", 3000)
    with pytest.raises(ValueError, match=r"a\.npz: not a readable \.npz.*claims to hold"):
        read_arrays(tmp_path / "a.npz")


@pytest.mark.parametrize("damage", ["garbled", "cut", "header"])
def test_damaged_npz_is_named(damage, tmp_path):
    np.savez(tmp_path / "a.npz", w=np.arange(400.0), v=np.arange(400.0))
    data = bytearray((tmp_path / "a.npz").read_bytes())
    if damage == "header":
        at = data.index(b"(400,)")
        data[at : at + 6] = b"(9**9)"
    elif damage == "garbled":
        data[200:1200] = b"\xa5" * 1000
    (tmp_path / "a.npz").write_bytes(data[: len(data) // 2] if damage == "cut" else data)
    with pytest.raises(ValueError, match=r"a\.npz: not a readable \.npz"):
        read_arrays(tmp_path / "a.npz")


PARTS = {
    b"encoder": lambda tensor: {"module.base.w": tensor([1, 2])},
    b"decoder": lambda tensor: {"conv.w": tensor([3])},
    b"optimizer": lambda tensor: {"state": {0: {"exp_avg": tensor([4])}}, "param_groups": [{}]},
}


def parts(folder, **files):
    for name, content in files.items():
        (folder / f"{name}.pt").write_bytes(content)
    return folder


def test_a_folder_of_parts_is_one_model_without_its_optimizers(monkeypatch, tmp_path):
    _fake_torch(monkeypatch, PARTS)
    parts(tmp_path, encoder=b"encoder", decoder=b"decoder", enc_opt=b"optimizer")
    arrays = read_arrays(tmp_path)
    assert {name: x.tolist() for name, x in arrays.items()} == {"base.w": [1, 2], "conv.w": [3]}
    with pytest.raises(ValueError, match=r"enc_opt\.pt: holds the state of an optimizer"):
        read_arrays(tmp_path / "enc_opt.pt")


def test_files_of_a_folder_that_are_no_parts_of_one_model_are_named(monkeypatch, tmp_path):
    _fake_torch(monkeypatch, PARTS)
    parts(tmp_path, epoch_1=b"encoder", epoch_2=b"encoder")
    with pytest.raises(ValueError, match=r"epoch_2\.pt and another file both hold module.base.w"):
        read_arrays(tmp_path)


def test_arguments_are_read_and_no_other_class_or_function_is_known(tmp_path):
    assert read_arguments(tmp_path) == {} == read_arguments(tmp_path / "a.pth")
    options = {"hidden_size": 128, "base_model": "resnet101", "lr": 1e-3}
    (tmp_path / "args.pkl").write_bytes(pickle.dumps(argparse.Namespace(**options)))
    assert read_arguments(tmp_path) == options
    for value in (argparse.ArgumentParser, print):
        (tmp_path / "args.pkl").write_bytes(pickle.dumps(argparse.Namespace(value=value)))
        with pytest.raises(ValueError, match=r"args\.pkl: expected a pickled .*it names "):
            read_arguments(tmp_path)
    (tmp_path / "args.pkl").write_bytes(pickle.dumps(options)[:9])
    with pytest.raises(ValueError, match=r"args\.pkl: expected a pickled argparse.Namespace"):
        read_arguments(tmp_path)


def test_pth_that_torch_refuses_is_named_with_the_reason_and_a_way_out(monkeypatch, tmp_path):
    def refused(tensor):
        raise pickle.UnpicklingError("Weights only load failed. A long story")

    _fake_torch(monkeypatch, refused)
    (tmp_path / "a.pth").write_bytes(b"-")
    with pytest.raises(ValueError, match=r"a\.pth: not a .*load failed\)(?s:.*)numpy\.savez"):
        read_arrays(tmp_path / "a.pth")


def test_pth_without_pytorch_names_both_ways_out(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torch", None)
    (tmp_path / "a.pth").write_bytes(b"-")
    with pytest.raises(ImportError, match=r"a\.pth(?s:.*)pip install torch(?s:.*)numpy\.savez"):
        read_arrays(tmp_path / "a.pth")


def test_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no checkpoint at .*nothing\.npz"):
        read_arrays(tmp_path / "nothing.npz")


def test_folder_is_refused_with_the_prefixes_it_holds(folder, tmp_path):
    with pytest.raises(ValueError, match=rf"is a folder.*{STEP}"):
        read_arrays(folder)
    with pytest.raises(ValueError, match="no TensorFlow checkpoint in it"):
        read_arrays(tmp_path)


def test_unknown_form_is_refused(tmp_path):
    (tmp_path / "weights.h5").write_bytes(b"-")
    with pytest.raises(ValueError, match=r"weights\.h5: unknown form"):
        read_arrays(tmp_path / "weights.h5")


@pytest.mark.parametrize("content", [b"", b"not a zip file"])
def test_damaged_npz_is_refused(content, tmp_path):
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.npz: not a readable \.npz"):
        read_arrays(tmp_path / "a.npz")


def test_incomplete_tensorflow_checkpoint_is_refused(folder, tmp_path):
    shutil.copy(folder / f"{STEP}.index", tmp_path)
    with pytest.raises(ValueError, match=f"{STEP}: not a readable TensorFlow V2 checkpoint"):
        read_arrays(tmp_path / STEP)
