"""The figures of the MaskProp paper, drawn from a checkpoint and the videos of its config.

    python -m vos_jax.figures --checkpoint DIR --out DIR [--figure features|reach|linkers]

Bertasius and Torresani, CVPR 2020:
    features    figure 5: what is carried of the two best instances of a frame through the clip
                around it, one channel; features/VIDEO.png, a column for each frame
    reach       figure 6: average precision against the clip's length, 2 T + 1 frames, with the
                reach T of training and another one at inference; reach.csv, reach.png
    linkers     figure 7: the same detections linked by config.inference.linker and each of
                config.eval.linkers; linkers/VIDEO.png, a row for each, below the frames. Of any
                system for instances in video

--videos are drawn, the first of config.data.eval (0: all); `reach` scores config.eval.videos. The
numbers of the linkers are those of `main --mode eval`. --config and its fields are as in `main`.

Example: vos-jax figures --checkpoint runs/maskprop_quick --out figures

Glossary: T reach, R = 2 T + 1 frames of a clip, h w the grid, C channels.
"""

import sys
from collections.abc import Sequence
from typing import Any

import cv2
import jax
import numpy as np
from absl import flags
from etils import epath
from ml_collections import ConfigDict
from PIL import Image

from vos_jax.benchmarks.plot import Panel, draw
from vos_jax.command_line import flag, new_flags, parse_flags, path_flag, run_command
from vos_jax.data.instances import InstanceVideo
from vos_jax.data.sources import instance_videos, open_sources
from vos_jax.evaluating.tracks import TrackEvaluation, TrackResults, follow
from vos_jax.files import whole_file, write_whole
from vos_jax.inference.instances import Detector, compiled
from vos_jax.inference.overlay import mark_overlay, marks_of
from vos_jax.inference.vis_setup import VISInference, build_vis_inference
from vos_jax.inference.writers import new_file
from vos_jax.loading import load_variables
from vos_jax.metrics.text_table import format_table
from vos_jax.systems.table import systems_of

FIGURES = ("features", "reach", "linkers")
ALL = "all"
REACHES = (0, 1, 2, 3, 6)  # the paper's clips of 1, 3, 5, 7 and 13 frames
INSTANCES = 2  # of figure 5
COLUMNS = 6  # frames of figure 7
GAP = 4  # pixels between images


def draw_features(
    inference: VISInference, variables: Any, video: InstanceVideo, file: epath.PathLike
) -> bool:
    """Figure 5 of the clip around the first frame, from the middle on, with two instances.

    Rows: the frames, then the features of an instance in each of them. The channel is that with the
    largest variance over both; grey is 0, lighter is above it. Returns False, and draws nothing,
    where there is no such frame.
    """
    model, reach, last = inference.model, inference.model.reach, len(video) - 1
    programs, detect = compiled(model), Detector(model, variables)
    memory = None
    for t in range(len(video) + reach):
        if t <= last:
            found = detect(video.frame(t))
        if memory is None:
            memory = programs.start(variables, found.features)
        seen = found.features, found.detections, np.array([t <= last])
        memory, linked = programs.link(variables, memory, *seen)
        centre = t - reach
        if centre >= len(video) // 2 and linked.detections.valid.sum() >= INSTANCES:
            break
    else:
        return False
    carried = model.apply(variables, memory, INSTANCES, method=model.clip_features)
    carried = np.asarray(carried[0], np.float32)  # [instances, R, h, w, C]
    channel = int(carried.var(axis=(0, 1, 2, 3)).argmax())
    shown = carried[..., channel]
    grey = np.clip(127.5 + 127.5 * shown / max(float(np.abs(shown).max()), 1e-12), 0, 255)
    placed = -(-np.asarray(found.features.size[0]) // model.stride)  # cells that hold the frame
    times = range(centre - reach, centre + reach + 1)
    blank = np.full((*video.original_size, 3), 255, np.uint8)

    def row(images):
        pairs = zip(times, images, strict=True)
        return [image if 0 <= t <= last else blank for t, image in pairs]

    frames = row(video.frame(min(max(t, 0), last)) for t in times)
    maps = [
        row(_on_frame(x, placed, video.original_size) for x in instance)
        for instance in grey.astype(np.uint8)
    ]
    _write(file, [frames, *maps])
    return True


def reach_report(
    config: ConfigDict, variables: Any, out: epath.PathLike, overwrite: bool = False
) -> str:
    """Figure 6: scores of every reach in folders of their own, the table and the plot.

    Returns the table: AP of all videos and, on synthetic-vis-v1, of each regime.
    """
    out, found = epath.Path(out), {}
    for reach in REACHES:
        changed = ConfigDict(config.to_dict())
        changed.inference.update({"reach": reach, "linker": "model"})
        changed.eval.linkers = ()
        evaluation = TrackEvaluation(changed)
        folder = out / f"reach_{reach}"
        how = dict(write_masks=False, overwrite=overwrite)
        found[2 * reach + 1] = _precisions(evaluation.run(variables, folder, **how))
    names = list(next(iter(found.values())))
    rows = [("frames of a clip", *names)]
    rows += [(str(n), *(f"{aps[name]:.3f}" for name in names)) for n, aps in found.items()]
    write_whole(out / "reach.csv", "".join(f"{','.join(row)}\n" for row in rows).encode())
    lines = {name: [(n, aps[name]) for n, aps in found.items()] for name in names}
    draw(out / "reach.png", [Panel("AP", "frames of a clip", "", lines)])
    return format_table(rows)


def draw_linkers(
    inference: VISInference,
    variables: Any,
    linkers: Sequence[str],
    video: InstanceVideo,
    file: epath.PathLike,
) -> None:
    """Figure 7: frames of a video, and below them what each linker makes of the same detections.

    An identity keeps its colour and number along a row.
    """
    linked = follow(inference, variables, linkers, video)
    count = min(COLUMNS, len(video))
    times = np.linspace(0, len(video) - 1, count).round().astype(int).tolist()
    rows = [[video.frame(t) for t in times]]
    for name in linkers:
        images = [
            mark_overlay(video.frame(t), marks_of(linked[name][t], video.categories)) for t in times
        ]
        rows.append(images)
    _write(file, rows, ["frames", *linkers])


def _precisions(results: TrackResults) -> dict[str, float]:
    """AP of all videos and of the groups, of the run's own linker."""
    (name, scores), *_ = results.methods.items()
    groups = {group: found[name].metrics["AP"] for group, found in results.groups.items()}
    return {"all": scores.metrics["AP"], **groups}


def _on_frame(grey: np.ndarray, placed: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """uint8 [H, W, 3] of a map uint8 [h, w] of the canvas; `placed`: its cells with the frame."""
    shown = cv2.resize(grey[: placed[0], : placed[1]], size[::-1], interpolation=cv2.INTER_NEAREST)
    return np.repeat(shown[..., None], 3, axis=2)


def _write(
    file: epath.PathLike, rows: Sequence[Sequence[np.ndarray]], titles: Sequence[str] = ()
) -> None:
    """Images of one size as a PNG; titles: one at the left border of each row."""
    height, width = rows[0][0].shape[:2]
    left = 90 if titles else 0
    size = len(rows) * (height + GAP) - GAP, left + len(rows[0]) * (width + GAP) - GAP
    sheet = np.full((*size, 3), 255, np.uint8)
    for i, row in enumerate(rows):
        top = i * (height + GAP)
        for j, image in enumerate(row):
            x = left + j * (width + GAP)
            sheet[top : top + height, x : x + width] = image
        if titles:
            place = (2, top + height // 2)
            cv2.putText(sheet, titles[i], place, cv2.FONT_HERSHEY_SIMPLEX, 0.42, (0, 0, 0), 1)
    with whole_file(file) as target:
        Image.fromarray(sheet).save(target, format="PNG")


def parse(argv: Sequence[str]) -> flags.FlagValues:
    """The command line as flag values; raises flags.Error where it is wrong."""
    values = new_flags(argv)
    path_flag(values, "checkpoint", "a workdir, or any other checkpoint of a system for instances")
    path_flag(values, "out", "folder for the figures")
    flag(values, "figure", ALL, "which; all: those the system has", choices=(ALL, *FIGURES))
    flag(values, "videos", 4, "how many are drawn; 0: all", at_least=0)
    flag(values, "overwrite", False, "replace figures and scores that exist")
    parse_flags(values, argv, required=("checkpoint", "out"))
    return values


def run(args: flags.FlagValues) -> str:
    """Do what the command line says; returns what was drawn, and the table of `reach`."""
    variables, config = load_variables(args.checkpoint, args.config)
    name = config.model.name
    if name not in systems_of("vis"):
        known = ", ".join(sorted(systems_of("vis")))
        raise ValueError(f"{args.checkpoint}: expected a system of {known}, found {name}")
    inference = build_vis_inference(config)
    carries = hasattr(inference.model, "clip_features")
    wanted = FIGURES if args.figure == ALL else (args.figure,)
    if not carries and args.figure in ("features", "reach"):
        raise ValueError(f"--figure {args.figure}: {name} carries no masks; maskprop does")
    wanted = [figure for figure in wanted if carries or figure == "linkers"]
    videos = instance_videos(open_sources(config.data, "eval"))[: args.videos or None]
    out, said = epath.Path(args.out), []
    variables = jax.device_put(variables)
    linkers = list(dict.fromkeys([inference.linker, *config.eval.linkers]))
    for figure in ("features", "linkers"):
        for video in videos if figure in wanted else ():
            file = new_file(out / figure / f"{video.name}.png", args.overwrite)
            if figure == "linkers":
                draw_linkers(inference, variables, linkers, video, file)
            elif not draw_features(inference, variables, video, file):
                said.append(f"{video.name}: no frame from its middle on has {INSTANCES} instances")
                continue
            said.append(f"wrote {file}")
    if "reach" in wanted:
        new_file(out / "reach.png", args.overwrite)  # now, not after the work
        said += [reach_report(config, variables, out, args.overwrite), f"wrote {out / 'reach.png'}"]
    return "\n".join(said)


def main(argv: Sequence[str]) -> None:
    """The command; wrong input ends with one line that says what to do."""
    run_command(argv, __doc__, parse, run)


if __name__ == "__main__":
    main(sys.argv)
