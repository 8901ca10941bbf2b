"""Train and evaluate a system.

    python -m vos_jax.main --config configs/feelvos.py[:PRESET] --workdir DIR

--mode train, eval or train_and_eval (default). A run that was interrupted goes on where it was
when the same command is given again. --mode eval scores the workdir's best checkpoint, or
--checkpoint DIR: a folder written by vos_jax.convert, another workdir or a step folder.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
from absl import flags
from etils import epath
from ml_collections import ConfigDict

from vos_jax.command_line import new_flags, parse_flags, run_command
from vos_jax.data.pipeline import Examples, Staged, batches
from vos_jax.data.sources import open_sources
from vos_jax.evaluation import MODEL, Evaluation
from vos_jax.models import build_model
from vos_jax.train.checkpoint import (
    Checkpoints,
    differing_fields,
    import_variables,
    prepare_workdir,
)
from vos_jax.train.initial import initial_variables
from vos_jax.train.logs import Logger
from vos_jax.train.loop import NonFiniteLoss, train
from vos_jax.train.manifest import build_manifest
from vos_jax.train.objective import make_objective
from vos_jax.train.optim import build_optimizer
from vos_jax.train.partition import (
    broadcast,
    build_mesh,
    fetch,
    initialize_distributed,
    place,
    state_sharding,
)
from vos_jax.train.state import TrainState
from vos_jax.train.step import make_train_step

MODES = ("train_and_eval", "train", "eval")


def run_training(config: ConfigDict, workdir: str, evaluated: bool = True) -> dict[str, float]:
    """Train to config.train.steps, from the workdir's checkpoint if it has one; the last scores.

    evaluated: score every config.eval.every steps and at the end into workdir/results/step_<n>;
    masks and overlays come with the last step.
    """
    score = _scorer(config, workdir) if evaluated else None  # complains now, not after training
    prepare_workdir(workdir, config, build_manifest(config))
    mesh = build_mesh(config.mesh)
    model = build_model(config.model, **config.train.model)
    variables = initial_variables(model, config.init, config.seed)
    tx, schedule = build_optimizer(config.optim, variables["params"])
    ema = config.train.ema
    state = TrainState.create(variables, tx, config.seed, ema=ema > 0)
    sharding = state_sharding(state, mesh)
    step = make_train_step(
        make_objective(model, config.train, config.loss),
        tx,
        mesh,
        sharding,
        schedule=schedule,
        accumulate=config.train.accumulate,
        ema_decay=ema,
        freeze=config.optim.freeze,
    )
    checkpoints = Checkpoints(workdir, keep_last=config.train.keep_last)
    logger = Logger(workdir)
    try:
        result = train(
            config,
            state=place(state, sharding),
            train_step=step,
            mesh=mesh,
            batches=_training_batches(config),
            checkpoints=checkpoints,
            logger=logger,
            evaluate=score,
        )
    finally:
        checkpoints.close()
        logger.close()
    return result.scores


def run_evaluation(
    config: ConfigDict | None, checkpoint: str, out_dir: str, overwrite: bool = False
) -> dict[str, float]:
    """Score a checkpoint on config.data.eval (the checkpoint's own config where None is given)."""
    variables, stored = import_variables(checkpoint)
    missing = [name for name in ("data", "eval", "inference", "init") if name not in stored]
    if config is None and missing:
        raise ValueError(
            f"{checkpoint} has no whole config (only {', '.join(stored)}; missing: "
            f"{', '.join(missing)}); give --config FILE[:PRESET]"
        )
    if config is None:
        config = ConfigDict(stored)
    elif fields := differing_fields({"model": stored["model"]}, {"model": config.model.to_dict()}):
        raise ValueError(
            f"{checkpoint} holds another model than --config describes; checkpoint -> config:\n  "
            + "\n  ".join(fields)
            + "\nLeave out --config to use the checkpoint's own."
        )
    return Evaluation(config).run(variables, out_dir, overwrite=overwrite).metrics[MODEL]


def _training_batches(config: ConfigDict) -> Callable[[int], Iterator[dict[str, Any]]]:
    """Function of the first example -> this process's batches from there on.

    config.data.pretrain, where there is one, holds what is different in the first
    config.data.pretrain.steps steps.
    """
    data = config.data
    examples: Examples | Staged = _examples(data, config.seed)
    pretrain = data.get("pretrain")
    if pretrain is not None and pretrain.steps:
        changed = {name: field for name, field in pretrain.items() if name != "steps"}
        first = ConfigDict({**data.copy_and_resolve_references(), **changed})
        examples = Staged(
            _examples(first, config.seed), pretrain.steps * config.train.batch, examples
        )
    return lambda start: batches(
        examples,
        start,
        config.train.batch,
        jax.process_index(),
        jax.process_count(),
        workers=data.workers,
    )


def _examples(data: ConfigDict, seed: int) -> Examples:
    """The examples of one stage; data: config.data."""
    return Examples(
        open_sources(data, "train"),
        **data.clip,
        crop=data.crop,
        short_side=data.short_side,
        scale=data.scale,
        flip=data.flip,
        groups=data.groups,
        warp=data.get("warp"),
        balance=data.get("balance"),
        interpolation=data.get("interpolation", "linear"),
        paste=data.get("paste", 0),
        max_objects=data.max_objects,
        on_bad_clip=data.on_bad_clip,
        seed=seed,
    )


def _scorer(config: ConfigDict, workdir: str) -> Callable[[dict, int], dict[str, float]]:
    """What the train loop calls; masks and overlays only come with the last step.

    Of several processes the first one evaluates, and all get its scores.
    """
    evaluation = Evaluation(config)
    evaluation.check_metric()

    def score(variables, step):
        variables = fetch(variables)
        scores = dict.fromkeys(evaluation.protocol.metric_names, 0.0)
        if jax.process_index() == 0:
            out_dir = epath.Path(workdir) / "results" / f"step_{step}"
            final = step == config.train.steps
            results = evaluation.run(variables, out_dir, write_masks=final, overwrite=True)
            scores = results.metrics[MODEL]
        return broadcast(scores)

    return score


def parse(argv: Sequence[str]) -> flags.FlagValues:
    """The command line as flag values; raises flags.Error where it is wrong."""
    values = new_flags(argv)
    flags.DEFINE_string(
        "workdir", None, "checkpoints, logs and results; may be gs://", flag_values=values
    )
    flags.DEFINE_enum("mode", MODES[0], MODES, "what to do", flag_values=values)
    flags.DEFINE_string(
        "checkpoint", None, "what eval scores instead of the workdir", flag_values=values
    )
    flags.DEFINE_bool("overwrite", False, "eval: replace results that exist", flag_values=values)
    parse_flags(values, argv, required=("workdir",))
    if (
        not values.help
        and values.config is None
        and not (values.mode == "eval" and values.checkpoint)
    ):
        raise flags.Error(
            "missing --config FILE[:PRESET]; only --mode eval --checkpoint DIR has its own"
        )
    if not values.help and values.checkpoint and values.mode != "eval":
        raise flags.Error(
            "--checkpoint goes with --mode eval; to train from weights set --config.init.model=DIR"
        )
    return values


def run(args: flags.FlagValues) -> str:
    """Do what the command line says; returns where the results are."""
    initialize_distributed()
    if args.mode == "eval":
        out_dir = epath.Path(args.workdir) / "results" / "eval"
        run_evaluation(args.config, args.checkpoint or args.workdir, out_dir, args.overwrite)
        return f"results in {out_dir}"
    run_training(args.config, args.workdir, evaluated=args.mode == "train_and_eval")
    if args.mode == "train":
        return f"checkpoints in {args.workdir}"
    return f"results in {epath.Path(args.workdir) / 'results'}"


def main(argv: Sequence[str]) -> None:
    """The command; wrong input ends with a message that says what to do."""
    run_command(argv, __doc__, parse, run, errors=(ValueError, OSError, NonFiniteLoss))


if __name__ == "__main__":
    main(sys.argv)
