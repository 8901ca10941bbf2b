"""Reads official checkpoint files into a plain dict: official name -> numpy array.

Forms: a TensorFlow V2 checkpoint by its prefix, a PyTorch .pth/.pt file (needs torch), and an
.npz of the same names, which stands in for every other form.
"""

import os
import zipfile
from typing import Any

import numpy as np
from etils import epath

_TORCH_SUFFIXES = (".pth", ".pt", ".tar")
_WRAPPERS = ("state_dict", "model_state_dict", "model_state", "model", "net", "network", "weights")
MAX_BYTES = 2**35  # of all arrays of an .npz; no published model of the field comes near


def read_arrays(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """All arrays of a checkpoint by their official names.

    path: a TensorFlow prefix such as model.ckpt-200004 (or its .index file; the `checkpoint` text
    file is not needed), or a file ending in .npz, .pth, .pt or .pth.tar. A {"state_dict": ...} or
    {"model": ...} around a PyTorch dict and the prefix "module." of DataParallel are removed.
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
        raise ValueError(_folder_message(path))
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
    try:
        with path.open("rb") as file:
            loaded = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged files raise nearly anything
        reason = str(error).split("\n")[0].split(". ")[0] or "it ends too early"
        raise ValueError(
            f"{path}: not a PyTorch file of plain tensors ({reason}). Fetch it again if it is "
            "damaged; if it is a file you trust that holds more than tensors, pass an .npz of "
            f"them instead:\n{_npz_recipe(path, ', weights_only=False')}"
        ) from error
    tensors = {
        name: value
        for name, value in _unwrap(loaded, torch.Tensor).items()
        if isinstance(value, torch.Tensor)
    }
    return {
        name: (value.float() if value.dtype == torch.bfloat16 else value).detach().numpy()
        for name, value in tensors.items()
    }


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
