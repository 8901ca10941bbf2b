"""Turn an official checkpoint into one of ours.

    python -m vos_jax.convert --model NAME --source PATH --out DIR [--config FILE[:PRESET]]

NAME is a system or a backbone (--help lists them). PATH is the official file: a TensorFlow
checkpoint prefix, a .pth (needs PyTorch), a folder of such files, or an .npz of official names ->
arrays. A system is built from the config, by default configs/NAME.py:paper (of rsis
configs/rvos.py:rsis), and every array must fit; of a backbone's file the heads are left out and
listed. DIR then goes to --checkpoint or --config.init.model (a system) or to --config.init.backbone
(a backbone).

Example: vos-jax convert --model stm --source STM_weights.pth --out weights/stm
"""

import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from ml_collections import ConfigDict

from vos_jax.checkpoint_folder import export_variables
from vos_jax.command_line import (
    config_folder,
    flag,
    new_flags,
    parse_flags,
    path_flag,
    run_command,
    say_config,
)
from vos_jax.nn.deeplab_dense import DenseDeepLabV3Plus
from vos_jax.nn.mobilenet_v2 import MobileNetV2
from vos_jax.nn.resnet import DEPTHS, ResNet
from vos_jax.nn.xception import Xception65
from vos_jax.notes import note
from vos_jax.official import deeplab_dense, mobilenet_v2, resnet, xception
from vos_jax.official.checkpoint_files import read_arguments, read_arrays
from vos_jax.official.naming import Imported
from vos_jax.systems.build import build_model, variable_shapes
from vos_jax.systems.table import SYSTEMS
from vos_jax.train.manifest import build_manifest

Importer = Callable[[Mapping[str, np.ndarray], Mapping[str, Any]], Imported]

BACKBONES: dict[str, tuple[Callable[[], nn.Module], Importer]] = {
    "xception_65": (Xception65, xception.from_official),
    "deeplabv3plus_resnet101": (DenseDeepLabV3Plus, deeplab_dense.from_official),
    "mobilenet_v2": (MobileNetV2, mobilenet_v2.from_official),
    **{f"resnet{d}": (partial(ResNet, depth=d), resnet.from_official) for d in DEPTHS},
}


def convert(
    name: str, source: str | os.PathLike, out: str | os.PathLike, config: ConfigDict | None = None
) -> Imported:
    """Writes the folder `out` with the variables of an official checkpoint, and returns them.

    config: of a system, its model section is built; None for a backbone, whose folder gets
    {"model": {"name": NAME}}. Raises ValueError or FileNotFoundError where the source cannot be
    read, does not fit, or `out` is not empty.
    """
    if name in BACKBONES:
        module, importer = BACKBONES[name]
        config = ConfigDict({"model": {"name": name}})
        target = jax.eval_shape(module().init, jax.random.key(0), jnp.zeros((1, 33, 33, 3)))
    else:
        importer = SYSTEMS[name].from_official
        if config.model.name != name:
            raise ValueError(
                f"--model {name}: the config describes {config.model.name!r}; "
                f"give a config of {name}"
            )
        target = variable_shapes(build_model(config.model))
    try:
        imported = _imported(importer, read_arrays(source), target)
    except ValueError as error:
        raise ValueError(f"{source} as {name}: {error}") from error
    arguments = {name: repr(value) for name, value in read_arguments(source).items()}
    origin = {"source": str(source), "unused": imported.unused, "arguments": arguments}
    manifest = build_manifest(config) | origin
    export_variables(out, imported.variables, config, manifest)
    return imported


def _imported(
    importer: Importer, arrays: Mapping[str, np.ndarray], target: Mapping[str, Any]
) -> Imported:
    """What the importer makes of arrays, whose names may all have one prefix too many."""
    try:
        return importer(arrays, target)
    except ValueError as error:
        for prefix in _prefixes(arrays):
            inner = {
                name.removeprefix(prefix): array
                for name, array in arrays.items()
                if name.startswith(prefix)
            }
            try:
                imported = importer(inner, target)
            except ValueError:
                continue
            if len(inner) == len(arrays):
                note(f"the prefix {prefix!r} of all names was left out")
                return imported
            raise ValueError(
                f"the {len(inner)} arrays whose names have the prefix {prefix!r} fit, but there are"
                f" {len(arrays) - len(inner)} others; save these alone, without the prefix, as an"
                " .npz and convert that"
            ) from error
        raise


def _prefixes(names: Iterable[str]) -> list[str]:
    """What names begin with, up to three words each followed by a point, the longest last."""
    words = (name.split(".")[:-1] for name in names)
    found = {".".join(w[:n]) + "." for w in words for n in range(1, min(len(w), 3) + 1)}
    return sorted(found, key=len)


def summary(imported: Imported, out: str | os.PathLike) -> str:
    """What was written and what was left out, in a few lines."""
    arrays = jax.tree.leaves(imported.variables)
    trained = sum(leaf.size for leaf in jax.tree.leaves(imported.variables["params"]))
    lines = [f"{len(arrays)} arrays, {trained:,} parameters -> {os.fspath(out)}"]
    if imported.unused:
        lines.append(f"not part of the model, left out ({len(imported.unused)}):")
        lines += [f"  {name}" for name in imported.unused]
    return "\n".join(lines)


def released_systems() -> list[str]:
    """The systems of which there is an official checkpoint to read."""
    return [name for name, system in SYSTEMS.items() if system.from_official is not None]


def default_config(name: str) -> str:
    """FILE:PRESET of a system's published configuration."""
    return str(config_folder() / (SYSTEMS[name].config or f"{name}.py:paper"))


def parse(argv: Sequence[str]) -> flags.FlagValues:
    """The command line as flag values; raises flags.Error where it is wrong."""
    values = new_flags(argv)
    names = [*released_systems(), *BACKBONES]
    flag(values, "model", None, "what the checkpoint holds", choices=names)
    path_flag(values, "source", "the official file or folder of files, or an .npz of it")
    path_flag(values, "out", "folder to write; may be gs://")
    parse_flags(values, argv, required=("model", "source", "out"))
    if values.help:
        return values
    if values.model in BACKBONES and values.config is not None:
        raise flags.Error(f"--config goes with a system; the backbone {values.model} needs none")
    if values.model in SYSTEMS and values.config is None:
        return parse([*argv, f"--config={default_config(values.model)}"])
    return values


def run(args: flags.FlagValues) -> str:
    """Do what the command line says; returns the summary."""
    say_config(args)
    return summary(convert(args.model, args.source, args.out, args.config), args.out)


def main(argv: Sequence[str]) -> None:
    """The command; wrong input ends with a message that says what to do."""
    run_command(argv, __doc__, parse, run)


if __name__ == "__main__":
    main(sys.argv)
