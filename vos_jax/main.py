"""Train and evaluate a system.

    python -m vos_jax.main --config FILE|NAME[:PRESET] [--workdir DIR]

Checkpoints, logs and results go to the workdir, by default runs/NAME_PRESET (runs/feelvos_quick).
--mode train, eval or train_and_eval (default). A run that was interrupted goes on where it was
when the same command is given again. --mode eval scores the workdir's best checkpoint, or
--checkpoint DIR: a folder written by vos_jax.convert, another workdir or a step folder.

Example: vos-jax train --config feelvos --workdir runs/demo
Example: vos-jax evaluate --config feelvos --workdir runs/demo
"""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
from absl import flags
from etils import epath
from ml_collections import ConfigDict

from vos_jax.command_line import (
    config_name,
    flag,
    new_flags,
    parse_flags,
    path_flag,
    run_command,
    say_config,
)
from vos_jax.compilation_cache import keep_compiled_programs
from vos_jax.data.pipeline import batches
from vos_jax.loading import load_variables
from vos_jax.presets.checks import check_config
from vos_jax.presets.common import new_config
from vos_jax.tasks import task_of
from vos_jax.train.batch_rule import fit_batch
from vos_jax.train.checkpoint import Checkpoints
from vos_jax.train.distributed import GIVEN, initialize_distributed
from vos_jax.train.logs import Logger
from vos_jax.train.loop import NonFiniteLoss, train
from vos_jax.train.manifest import build_manifest
from vos_jax.train.partition import build_mesh, devices_line, fetch
from vos_jax.train.setup import build_training
from vos_jax.train.slots import in_buckets
from vos_jax.train.workdir import begun_config, prepare_workdir

MODES = ("train_and_eval", "train", "eval")
DEFAULT_PRESET = "quick"  # of every get_config


def run_training(config: ConfigDict, workdir: str, evaluated: bool = True) -> dict[str, float]:
    """Train to config.train.steps, from the workdir's checkpoint if it has one; the last scores.

    evaluated: score every config.eval.every steps and at the end into workdir/results/step_<n>;
    masks and overlays come with the last step. A batch that the devices cannot share evenly follows
    config.optim.scale_rule; what it changes is printed, and stands in manifest.json.
    """
    config, changes = fit_batch(config, build_mesh(config.mesh).size, begun_config(workdir))
    if changes and jax.process_index() == 0:
        rule = f"config.optim.scale_rule={config.optim.scale_rule} (old -> new):"
        print(rule, *changes, sep="\n  ", flush=True)
    score = _scorer(config, workdir) if evaluated else None  # complains now, not after training
    manifest = build_manifest(config) | {"scaled": changes}
    prepare_workdir(workdir, config, manifest, defaults=new_config(config.model.name))
    checkpoints, logger = Checkpoints(workdir, config.train.keep_last), Logger(workdir)
    try:
        restored = checkpoints.latest_step() is not None
        training = build_training(config, restored=restored, objective=task_of(config).objective)
        result = train(
            config,
            state=training.state,
            train_step=training.step,
            mesh=training.mesh,
            batches=training_batches(config),
            checkpoints=checkpoints,
            logger=logger,
            evaluate=score,
        )
    finally:
        checkpoints.close()
        logger.close()
    return result.scores


def training_batches(config: ConfigDict) -> Callable[[int], Iterator[dict[str, Any]]]:
    """Function of the first example -> this process's batches from there on."""
    bucketed = config.train.get("slot_buckets", False)  # of label maps alone
    if bucketed and jax.process_count() > 1:
        raise ValueError(
            "config.train.slot_buckets: expected False with several processes, each of which sees"
            f" only its own clips of a batch, found True with {jax.process_count()}"
        )
    examples = task_of(config).examples(config)

    def from_example(start: int) -> Iterator[dict[str, Any]]:
        whole = batches(
            examples,
            start,
            config.train.batch,
            jax.process_index(),
            jax.process_count(),
            workers=config.data.workers,
            processes=config.data.processes,
            transport=config.data.transport,
        )
        return in_buckets(whole) if bucketed else whole

    return from_example


def run_evaluation(
    config: ConfigDict | None, checkpoint: str, out_dir: str, overwrite: bool = False
) -> dict[str, float]:
    """Score a checkpoint on config.data.eval (the checkpoint's own config where None is given).

    Several processes share the videos, and all get the scores.
    """
    variables, config = load_variables(checkpoint, config)
    missing = [name for name in ("data", "eval", "inference", "init") if name not in config]
    if missing:
        raise ValueError(
            f"{checkpoint} has no whole config (only {', '.join(config)}; missing: "
            f"{', '.join(missing)}); give --config FILE[:PRESET]"
        )
    return task_of(config).scoring(config).scores(variables, out_dir, overwrite=overwrite)


def _scorer(config: ConfigDict, workdir: str) -> Callable[[dict, int], dict[str, float]]:
    """What the train loop calls; masks and overlays only come with the last step.

    Several processes share the videos, and all get the scores.
    """
    scoring = task_of(config).scoring(config)
    scoring.check_metric()

    def score(variables, step):
        out_dir = epath.Path(workdir) / "results" / f"step_{step}"
        options = dict(write_masks=step == config.train.steps, overwrite=True)
        return scoring.scores(fetch(variables), out_dir, **options)

    return score


def parse(argv: Sequence[str]) -> flags.FlagValues:
    """The command line as flag values; raises flags.Error where it is wrong."""
    values = new_flags(argv)
    path_flag(
        values,
        "workdir",
        "checkpoints, logs and results; may be gs://; default: runs/NAME_PRESET of the config, with"
        " --checkpoint runs/eval_CHECKPOINT",
    )
    flag(values, "mode", MODES[0], "what to do", choices=MODES)
    path_flag(values, "checkpoint", "what eval scores instead of the workdir")
    flag(values, "overwrite", False, "eval: replace results that exist")
    # for machines whose environment does not tell the processes of a run of each other
    flag(values, "coordinator_address", None, "HOST:PORT of process 0, where all processes meet")
    flag(values, "num_processes", None, "how many they are")
    flag(values, "process_id", None, "which of them this one is, from 0")
    parse_flags(values, argv)
    if values.help:
        return values
    if values.config is None and not (values.mode == "eval" and values.checkpoint):
        raise flags.Error(
            "missing --config FILE[:PRESET]; only --mode eval --checkpoint DIR has its own"
        )
    if values.checkpoint and values.mode != "eval":
        raise flags.Error(
            "--checkpoint goes with --mode eval; to train from weights set --config.init.model=DIR"
        )
    return values


def run(args: flags.FlagValues) -> str:
    """Do what the command line says; returns where the results are."""
    if args.config is not None:
        check_config(args.config)
    initialize_distributed(**{name: args[name].value for name in GIVEN})
    keep_compiled_programs()
    workdir = args.workdir or default_workdir(args)
    if jax.process_index() == 0 and not args.quiet:
        _say_start(args, workdir)
    if args.mode == "eval":
        out_dir = epath.Path(workdir) / "results" / "eval"
        run_evaluation(args.config, args.checkpoint or workdir, out_dir, args.overwrite)
        return f"results in {out_dir}"
    run_training(args.config, workdir, evaluated=args.mode == "train_and_eval")
    if args.mode == "train":
        return f"checkpoints in {workdir}"
    return f"results in {epath.Path(workdir) / 'results'}"


def _say_start(args: flags.FlagValues, workdir: str) -> None:
    print(devices_line(None if args.mode == "eval" else args.config.mesh))
    print(f"workdir: {workdir} ({'given' if args.workdir else 'default; --workdir changes it'})")
    if args.mode != "eval":
        print("compiling comes before the first step, once; it may take minutes")
    say_config(args)
    sys.stdout.flush()


def default_workdir(args: flags.FlagValues) -> str:
    """Where a run without --workdir goes, in the folder `runs`.

    <config>_<preset>; where --checkpoint names what is scored, eval_<its folder>, so that these
    results are never among those of a run of the same config.
    """
    if args.checkpoint:
        folder = Path(os.path.abspath(args.checkpoint))
        step = folder.parent.name in ("last", "best")
        return f"runs/eval_{'_'.join(folder.parts[-3 if step else -1 :])}"
    name, preset = config_name(args)
    return f"runs/{name}_{(preset or DEFAULT_PRESET).replace('/', '_')}"


def main(argv: Sequence[str]) -> None:
    """The command; wrong input ends with a message that says what to do."""
    run_command(argv, __doc__, parse, run, errors=(ValueError, OSError, NonFiniteLoss))


if __name__ == "__main__":
    main(sys.argv)
