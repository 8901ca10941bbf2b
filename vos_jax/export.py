"""Export the streaming step of a system as StableHLO, to run where vos_jax is not installed.

    python -m vos_jax.export --checkpoint DIR --out DIR --size 480x854 --objects N

--out gets start.stablehlo and step.stablehlo (and give.stablehlo with --given_masks 2 or more),
serialised by jax.export, parameters.npz, manifest.json and runner.py, which needs jax and numpy
alone; its docstring shows how. Labels are compared with those of vos_jax before the folder gets its
name. The folder must not exist.

Example: vos-jax export --checkpoint runs/demo --out exported --size 480x854 --objects 2
"""

import importlib.util
import json
import os
import re
import shutil
import sys
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags
from flax import traverse_util
from jax import export

import vos_jax
from vos_jax import export_runner
from vos_jax.command_line import flag, new_flags, parse_flags, path_flag, run_command, say_config
from vos_jax.export_preparation import Preparation, preparation_of
from vos_jax.files import is_remote
from vos_jax.inference.setup import Inference, build_inference
from vos_jax.inference.streaming import VideoSegmenter, compiled
from vos_jax.loading import load_variables
from vos_jax.systems.base import VOSModel
from vos_jax.systems.table import SYSTEMS
from vos_jax.systems.views import Views

PLATFORMS = ("cpu", "cuda", "tpu")
MOST_OBJECTS = 254
MOST_SIDE = 8192
CHECKED_FRAMES = 4
TIE = 1e-3  # probabilities this near count as equal: the programs sum in other orders


@dataclass(frozen=True)
class Form:
    """What an export has room for: frames of `size` (H, W), objects, frames with given masks."""

    size: tuple[int, int]
    objects: int
    given_masks: int = 1
    platforms: tuple[str, ...] = PLATFORMS


def export_system(
    folder: str | os.PathLike,
    inference: Inference,
    variables: Mapping[str, Any],
    form: Form,
    check: bool = True,
) -> str:
    """Write the folder, whole or not at all; returns what was compared.

    Args:
        folder: a new one.
        inference: a system that takes masks, in one view.
        variables: of its model.
        check: compare labels with those of VideoSegmenter, where JAX runs on one of the platforms.

    Raises:
        FileExistsError: the folder exists.
        ValueError: a system that cannot be exported, or labels that differ.
    """
    folder, model = _new_folder(folder), inference.model
    _check_system(inference)
    preparation = preparation_of(model, form.size)
    named = _named({**variables, "preparation": preparation.matrices()})
    unfinished = folder.absolute().parent / f".{uuid.uuid4().hex}.unfinished"
    unfinished.mkdir(parents=True)
    try:
        np.savez(unfinished / "parameters.npz", **named)
        for name, program in _programs(model, named, preparation, form).items():
            (unfinished / f"{name}.stablehlo").write_bytes(program.serialize())
        shutil.copyfile(export_runner.__file__, unfinished / "runner.py")
        manifest = _manifest(model, named, preparation, form)
        (unfinished / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")
        compared = "not compared with vos_jax"
        if check and _here() in form.platforms:
            compared = _compare(unfinished, model, variables, preparation, form)
        elif check:
            compared += f": JAX runs on {_here()} here, not on {', '.join(form.platforms)}"
        unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return compared


def _new_folder(folder: str | os.PathLike) -> Path:
    if is_remote(folder):
        raise ValueError(f"--out {folder}: expected a local folder, to be copied elsewhere whole")
    folder = Path(folder)
    if folder.exists() or folder.is_symlink():
        raise FileExistsError(f"{folder} exists; choose another name for --out")
    return folder


def _check_system(inference: Inference) -> None:
    model, kind = inference.model, type(inference.model).__name__
    if model.traits.guidance == "none":
        raise ValueError(f"{kind} takes no masks: only systems that do are exported")
    if inference.crf is not None:
        raise ValueError("config.inference.crf: the dense CRF is not exported; set it to False")
    if isinstance(model, Views):
        raise ValueError(
            "config.inference: one view is exported, found several; leave scales and flip out"
        )
    if model.mesh is not None:
        raise ValueError("config.inference.memory_devices: an export runs on one device; set it 1")


def _programs(
    model: VOSModel, named: Mapping[str, np.ndarray], preparation: Preparation, form: Form
) -> dict[str, export.Exported]:
    """The serialisable functions of lists of arrays: `start`, `step` and, with room, `give`."""
    begin, advance, *_ = compiled(model)
    paths = list(named)

    def opened(parameters, frame):
        tree = traverse_util.unflatten_dict(dict(zip(paths, parameters, strict=True)), sep="/")
        return tree, preparation.prepared(frame, tree.pop("preparation", {}))[None]

    def first(parameters, frame, labels, given):
        variables, inputs = opened(parameters, frame)
        room = dict(num_references=form.given_masks, size=form.size)
        return begin(variables, inputs, labels[None], given[None], **room)[0]

    parameters = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in named.values()]
    frame = jax.ShapeDtypeStruct((*form.size, 3), np.uint8)
    mask = jax.ShapeDtypeStruct(form.size, np.uint8), jax.ShapeDtypeStruct((form.objects,), bool)
    shapes = jax.eval_shape(first, parameters, frame, *mask)
    leaves, structure = jax.tree.flatten(shapes)

    def start(*arguments):
        return jax.tree.leaves(first(*arguments))

    def give(parameters, memory, frame, labels=None, given=None):
        variables, inputs = opened(parameters, frame)
        shown = (None, None) if labels is None else (labels[None], given[None])
        memory = jax.tree.unflatten(structure, memory)
        memory, _, found, pasted = advance(variables, memory, inputs, *shown, size=form.size)
        return jax.tree.leaves(memory), found[0]

    def step(parameters, memory, frame):
        return give(parameters, memory, frame)

    def exported(function: Callable, *arguments: Any) -> export.Exported:
        return export.export(jax.jit(function), platforms=form.platforms)(*arguments)

    programs = {
        "start": exported(start, parameters, frame, *mask),
        "step": exported(step, parameters, leaves, frame),
    }
    if form.given_masks > 1:
        programs["give"] = exported(give, parameters, leaves, frame, *mask)
    return programs


def _named(tree: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Arrays by their paths, sorted."""
    flat = traverse_util.flatten_dict(tree, sep="/")
    return {name: np.asarray(flat[name]) for name in sorted(flat)}


def _manifest(
    model: VOSModel, named: Mapping[str, np.ndarray], preparation: Preparation, form: Form
) -> dict[str, Any]:
    system = next(name for name, entry in SYSTEMS.items() if entry.model is type(model))
    return {
        "format": export_runner.FORMAT,
        "system": system,
        "size": form.size,
        "objects": form.objects,
        "given_masks": form.given_masks,
        "platforms": form.platforms,
        "frame": "uint8 [H, W, 3] RGB in 0..255; resizing, padding and normalisation are inside",
        "mask": "uint8 [H, W], slots 1..objects, 0 background, 255 unknown",
        "network_size": preparation.size,
        "network_dtype": preparation.dtype,
        "parameters": [
            {"name": name, "shape": x.shape, "dtype": str(x.dtype)} for name, x in named.items()
        ],
        "versions": {
            "vos_jax": vos_jax.__version__,
            "jax": jax.__version__,
            "numpy": np.__version__,
            "calling_convention": export.maximum_supported_calling_convention_version,
        },
    }


class _Prepared(VideoSegmenter):
    """Takes frames as the export prepares them: its rounding is compared in `preparation_of`."""

    def __init__(self, preparation: Preparation, *arguments: Any, **options: Any):
        super().__init__(*arguments, **options)
        self._preparation = preparation

    def _prepare(self, frame: np.ndarray) -> Any:
        return self._preparation.prepared(frame, self._preparation.matrices())[None]


def _compare(
    folder: Path,
    model: VOSModel,
    variables: Mapping[str, Any],
    preparation: Preparation,
    form: Form,
) -> str:
    """Runs the folder's runner and VideoSegmenter on frames that move; ValueError where they part.

    A label may be another one where its probability is within TIE of the largest.
    """
    spec = importlib.util.spec_from_file_location("vos_jax_exported_runner", folder / "runner.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    ours = module.Runner(folder)
    theirs = _Prepared(preparation, model, dict(variables), slots=form.objects)
    frames, mask = moving_frames(form.size, min(form.objects, 2), CHECKED_FRAMES)
    ours.start(frames[0], mask), theirs.step(frames[0], mask)
    ties = 0
    for t, frame in enumerate(frames[1:], 1):
        again = mask if t == CHECKED_FRAMES - 2 and form.given_masks > 1 else None
        found, expected = ours.step(frame, again), theirs.step(frame, again)
        apart = found != expected
        channels = theirs.probabilities()
        order = np.searchsorted([0, *theirs.ids], found)
        chosen = np.take_along_axis(channels, order[None], axis=0)[0]
        gap = float((channels.max(axis=0) - chosen)[apart].max(initial=0))
        if not gap <= TIE:
            raise ValueError(
                f"the exported program differs from vos_jax in frame {t}: {int(apart.sum())} "
                f"labels, whose probabilities are up to {gap:.2g} apart (ties: {TIE})"
            )
        ties += int(apart.sum())
    return f"labels equal to vos_jax's on {CHECKED_FRAMES} frames on {_here()}, {ties} ties apart"


def moving_frames(
    size: tuple[int, int], objects: int, count: int
) -> tuple[list[np.ndarray], np.ndarray]:
    """Frames uint8 [H, W, 3] with textured rectangles that move, and the first one's labels."""
    rng, (height, width) = np.random.default_rng(0), size
    ground = rng.integers(0, 255, (height, width, 3)).astype(np.uint8)
    side, room = max(1, height // 3), max(1, width // (objects + 1))
    texture = rng.integers(0, 255, (objects, side, room, 3)).astype(np.uint8)
    frames, labels = [], np.zeros(size, np.uint8)
    for t in range(count):
        frame = ground.copy()
        for k in range(objects):
            rows = slice(height // 8 + 2 * t, height // 8 + 2 * t + side)
            columns = slice(k * room + 2 * t, (k + 1) * room + 2 * t)
            place = frame[rows, columns]
            place[:] = texture[k, : place.shape[0], : place.shape[1]]
            if t == 0:
                labels[rows, columns] = k + 1
        frames.append(frame)
    return frames, labels


def _here() -> str:
    """The platform of JAX's default device as jax.export names it."""
    platform = jax.default_backend()
    return "cuda" if platform == "gpu" else platform


def parse(argv: Sequence[str]) -> flags.FlagValues:
    """The command line as flag values; raises flags.Error where it is wrong."""
    values = new_flags(argv)
    path_flag(values, "checkpoint", "folder written by convert, a workdir or a step folder")
    path_flag(values, "out", "folder to write, which must not exist")
    flag(values, "size", None, "HEIGHTxWIDTH of the frames, such as 480x854")
    flag(values, "objects", 1, "how many objects there is room for", at_least=1)
    flag(values, "given_masks", 1, "how many frames of a video may come with masks", at_least=1)
    flag(values, "platforms", ",".join(PLATFORMS), "what the programs are lowered for")
    flag(values, "check", True, "compare labels with vos_jax's")
    parse_flags(values, argv, required=("checkpoint", "out", "size"))
    if not values.help:
        _form(values)
    return values


def _form(args: flags.FlagValues) -> Form:
    found = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", args.size)
    size = tuple(map(int, found.groups())) if found else ()
    if not size or max(size) > MOST_SIDE:
        raise flags.Error(
            f"--size: expected HEIGHTxWIDTH such as 480x854 up to {MOST_SIDE}, found {args.size!r}"
        )
    if args.objects > MOST_OBJECTS:
        raise flags.Error(f"--objects: expected 1..{MOST_OBJECTS}, found {args.objects}")
    platforms = tuple(dict.fromkeys(args.platforms.split(",")))
    if unknown := [p for p in platforms if p not in PLATFORMS]:
        raise flags.Error(f"--platforms: expected some of {','.join(PLATFORMS)}, found {unknown}")
    return Form(size, args.objects, args.given_masks, platforms)


def run(args: flags.FlagValues) -> str:
    """Do what the command line says; returns what was written."""
    say_config(args)
    form = _form(args)
    _new_folder(args.out)
    variables, config = load_variables(args.checkpoint, args.config)
    name = config["model"]["name"]
    if SYSTEMS[name].task != "vos":
        raise ValueError(f"{name} finds instances and takes no masks: it is not exported")
    compared = export_system(args.out, build_inference(config), variables, form, args.check)
    return f"wrote {args.out}: {name} for {', '.join(form.platforms)}; {compared}"


def main(argv: Sequence[str]) -> None:
    """The command; wrong input ends with one line that says what to do."""
    run_command(argv, __doc__, parse, run)


if __name__ == "__main__":
    main(sys.argv)
