"""Reads official checkpoint files into a plain dict: official name -> numpy array.

Forms: a TensorFlow V2 checkpoint by its prefix, a PyTorch .pth/.pt file or a folder of several
(needs torch), and an .npz of the same names, which stands in for every other form. Files are read
as data: pickles may name tensors and the harmless classes below, and nothing of them is run.
"""

import argparse
import os
import pickle
import zipfile
from typing import Any

import numpy as np
from etils import epath

_TORCH_SUFFIXES = (".pth", ".pt", ".tar")
_WRAPPERS = ("state_dict", "model_state_dict", "model_state", "model", "net", "network", "weights")
# Classes that released files hold beside their weights; they are read as objects of no behaviour.
_HARMLESS = ("utils.stats.AverageMeter",)  # A-GAME
ARGUMENTS = "args.pkl"  # of RVOS and RSIS, beside their weights
MAX_BYTES = 2**35  # of all arrays of an .npz; no published model of the field comes near


def read_arrays(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """All arrays of a checkpoint by their official names.

    path: a TensorFlow prefix such as model.ckpt-200004 (or its .index file; the `checkpoint` text
    file is not needed), a file ending in .npz, .pth, .pt or .pth.tar, or a folder of PyTorch files
    that are parts of one model (encoder.pt, decoder.pt), in which those of optimizers are left out.
    A {"state_dict": ...} or {"model": ...} around a PyTorch dict and the prefix "module." of
    DataParallel are removed.
    FileNotFoundError or ValueError where the file is missing, unreadable or of another form.
    """
    path = epath.Path(path)
    if path.suffix == ".index":
        path = path.with_suffix("")
    if epath.Path(f"{path}.index").exists():
        arrays = _read_tensorflow(path)
    elif not path.exists():
        raise FileNotFoundError(f"no checkpoint at {path} (nor {path}.index)")
    elif path.is_dir():
        arrays = _read_folder(path)
    elif path.suffix == ".npz":
        arrays = _read_npz(path)
    elif path.suffix in _TORCH_SUFFIXES:
        arrays = _read_torch(path)
    else:
        raise ValueError(
            f"{path}: unknown form of checkpoint; expected a TensorFlow prefix with "
            f"{path.name}.index beside it, or a file ending in .npz, .pth, .pt or .pth.tar"
        )
    if not arrays:
        raise ValueError(f"{path}: holds no array")
    return {name.removeprefix("module."): value for name, value in arrays.items()}


def read_arguments(folder: str | os.PathLike) -> dict[str, Any]:
    """The options with which a released model was trained, from the args.pkl of its folder.

    An empty dict where there is none. ValueError where it is no argparse.Namespace of plain values.
    """
    path = epath.Path(folder) / ARGUMENTS
    if not path.exists():
        return {}
    try:
        with path.open("rb") as file:
            return vars(_Arguments(file).load())
    except Exception as error:  # damaged files raise nearly anything
        raise ValueError(
            f"{path}: expected a pickled argparse.Namespace of plain values ({error}); it is read"
            " for the record alone and may be moved away"
        ) from error


class _Arguments(pickle.Unpickler):
    """Knows one class and no function, so that a pickle runs nothing."""

    def find_class(self, module: str, name: str) -> type:
        if (module, name) == ("argparse", "Namespace"):
            return argparse.Namespace
        raise pickle.UnpicklingError(f"it names {module}.{name}")


def _read_tensorflow(prefix: epath.Path) -> dict[str, np.ndarray]:
    import tensorflow as tf

    try:
        reader = tf.train.load_checkpoint(os.fspath(prefix))
        return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}
    except Exception as error:  # damaged files raise nearly anything
        raise ValueError(
            f"{prefix}: not a readable TensorFlow V2 checkpoint ({error}); "
            f"the .index and every .data-* file of it must be complete"
        ) from error


def _read_npz(path: epath.Path) -> dict[str, np.ndarray]:
    try:
        with path.open("rb") as file:
            with zipfile.ZipFile(file) as archive:
                claimed = sum(entry.file_size for entry in archive.infolist())
            if claimed > MAX_BYTES:
                raise ValueError(f"it claims to hold {claimed / 1e9:.0f} GB")
            file.seek(0)
            with np.load(file, allow_pickle=False) as arrays:
                return {name: arrays[name] for name in arrays.files}
    except Exception as error:  # damaged files raise nearly anything
        raise ValueError(f"{path}: not a readable .npz of arrays ({error})") from error


def _read_torch(path: epath.Path) -> dict[str, np.ndarray]:
    try:
        import torch
    except ImportError as error:
        raise ImportError(
            f"{path}: reading it needs PyTorch (pip install torch). Or make an .npz of it once, "
            f"where PyTorch is installed, and pass that:\n{_npz_recipe(path)}"
        ) from error
    harmless = [(type(name.split(".")[-1], (), {}), name) for name in _HARMLESS]
    try:
        with path.open("rb") as file, torch.serialization.safe_globals(harmless):
            loaded = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged files raise nearly anything
        reason = str(error).split("\n")[0].split(". ")[0] or "it ends too early"
        raise ValueError(
            f"{path}: not a PyTorch file of plain tensors ({reason}). Fetch it again if it is "
            "damaged; if it is a file you trust that holds more than tensors, pass an .npz of "
            f"them instead:\n{_npz_recipe(path, ', weights_only=False')}"
        ) from error
    if isinstance(loaded, dict) and "param_groups" in loaded:
        raise _OptimizerState(
            f"{path}: holds the state of an optimizer, not the weights of a model"
        )
    tensors = {
        name: value
        for name, value in _unwrap(loaded, torch.Tensor).items()
        if isinstance(value, torch.Tensor)
    }
    return {
        name: (value.float() if value.dtype == torch.bfloat16 else value).detach().numpy()
        for name, value in tensors.items()
    }


class _OptimizerState(ValueError):
    """A PyTorch file without weights."""


def _read_folder(folder: epath.Path) -> dict[str, np.ndarray]:
    """The arrays of all its PyTorch files; ValueError where two have an array of one name."""
    files = sorted(f for f in folder.iterdir() if f.suffix in _TORCH_SUFFIXES)
    if not files:
        raise ValueError(_folder_message(folder))
    arrays: dict[str, np.ndarray] = {}
    for file in files:
        try:
            found = _read_torch(file)
        except _OptimizerState:
            continue
        if double := sorted(arrays.keys() & found.keys()):
            raise ValueError(
                f"{folder}: {file.name} and another file both hold {double[0]}, so they are no"
                " parts of one model; name the file that is meant"
            )
        arrays |= found
    return arrays


def _unwrap(loaded: Any, tensor: type) -> dict[str, Any]:
    """The dict of arrays inside dicts such as {"state_dict": ...}; {} where there is none.

    Where a dict holds several, one of the names of _WRAPPERS counts, else the only one.
    """
    while isinstance(loaded, dict):
        if any(isinstance(value, tensor) for value in loaded.values()):
            return loaded
        inner = {key: value for key, value in loaded.items() if isinstance(value, dict) and value}
        named = [inner[key] for key in _WRAPPERS if key in inner]
        if not named and len(inner) != 1:
            return {}
        loaded = (named or list(inner.values()))[0]
    return {}


def _npz_recipe(path: epath.Path, options: str = "") -> str:
    return (
        f'  import numpy, torch; state = torch.load("{path.name}", map_location="cpu"{options})\n'
        '  state = state.get("state_dict", state)\n'
        f'  numpy.savez("{path.stem}.npz", **{{k: v.detach().numpy() for k, v in state.items()}})'
    )


def _folder_message(path: epath.Path) -> str:
    prefixes = sorted(str(p)[: -len(".index")] for p in path.glob("*.index"))
    found = ", ".join(prefixes) if prefixes else "no TensorFlow checkpoint in it"
    return f"{path}: is a folder, expected a file or a TensorFlow checkpoint prefix; found {found}"
