"""Checkpoints of training runs, written with Orbax.

    WORKDIR/config.json, manifest.json     what was asked for, where and with what it ran
    WORKDIR/last/<step>/variables          what inference uses: params (averaged where the run
                                           keeps an average) and batch_stats
    WORKDIR/last/<step>/training           the rest of TrainState
    WORKDIR/best/<step>/variables, score   variables of the best evaluation, and that evaluation

last and best have a manager each: a single one with best_fn deletes the newest step. They never
write at the same time: processes meet at barriers that Orbax names after the step alone, so two
managers that save one step would take each other's. Every path may be remote (etils.epath).
"""

import math
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath

from vos_jax.checkpoint_folder import absolute, metadata_tree
from vos_jax.train.state import TrainState


class Checkpoints:
    """The checkpoints of one workdir. Saving is asynchronous; wait() ends it.

    On several processes every method must be called by all of them.
    """

    def __init__(self, workdir: str | epath.Path, keep_last: int = 2):
        self.workdir = absolute(workdir)
        standard, scores = ocp.StandardCheckpointHandler, ocp.JsonCheckpointHandler
        self._last = _manager(
            self.workdir / "last", keep_last, {"variables": standard(), "training": standard()}
        )
        self._best = _manager(
            self.workdir / "best", 1, {"variables": standard(), "score": scores()}
        )

    def latest_step(self) -> int | None:
        """The newest finished step in last/, or None."""
        return self._last.latest_step()

    def latest_path(self) -> epath.Path | None:
        """The folder of the newest finished step in last/, or None."""
        step = self.latest_step()
        return None if step is None else self.workdir / "last" / str(step)

    def save_last(self, state: TrainState) -> None:
        """Starts saving the whole state under its step; nothing if that step is there already."""
        step = int(state.step)
        if step in self._last.all_steps():
            return
        self._best.wait_until_finished()
        self._last.save(step, args=_composite(ocp.args.StandardSave, *_items(state)))

    def save_best(self, state: TrainState, scores: dict[str, float], metric: str) -> bool:
        """Saves the variables if scores[metric] exceeds the best so far; returns whether.

        scores must be equal on every process. A NaN is never the best.
        """
        if metric not in scores:
            raise ValueError(
                f"config.eval.metric is {metric!r}, but the evaluation reports "
                f"{sorted(scores)}; set it to one of these"
            )
        best = self.best_scores()
        value = float(scores[metric])
        if math.isnan(value) or (best is not None and value <= best.get(metric, -math.inf)):
            return False
        plain = {name: float(score) for name, score in scores.items()}
        step = int(state.step)
        if step in self._best.all_steps():
            self._best.delete(step)
        self._last.wait_until_finished()
        variables = ocp.args.StandardSave(state.best_variables())
        self._best.save(
            step, args=ocp.args.Composite(variables=variables, score=ocp.args.JsonSave(plain))
        )
        return True

    def best_scores(self) -> dict[str, float] | None:
        """The evaluation of the best step so far, or None."""
        self._best.wait_until_finished()
        step = self._best.latest_step()
        if step is None:
            return None
        restored = self._best.restore(step, args=ocp.args.Composite(score=ocp.args.JsonRestore()))
        return restored["score"]

    def restore(self, target: TrainState, sharding: Any = None) -> TrainState:
        """The newest state of last/ with the structure of target, on its shardings.

        target: arrays, or shapes with sharding given. The devices may differ from those that
        saved. Raises FileNotFoundError without a checkpoint, ValueError listing what differs.
        """
        self._last.wait_until_finished()
        step = self.latest_step()
        if step is None:
            raise FileNotFoundError(f"no checkpoint in {self.workdir / 'last'}; train first")
        sharding = jax.tree.map(lambda x: x.sharding, target) if sharding is None else sharding
        abstract = jax.tree.map(
            lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), target, sharding
        )
        variables, training = _items(abstract)
        stored = self._last.item_metadata(step)
        _check_same(stored["variables"], variables, self.latest_path() / "variables")
        _check_same(stored["training"], training, self.latest_path() / "training")
        restored = self._last.restore(
            step, args=_composite(ocp.args.StandardRestore, variables, training)
        )
        return _state(restored["variables"], restored["training"], target.ema is not None)

    def wait(self) -> None:
        """Returns when everything that save_last and save_best started is on disk."""
        self._last.wait_until_finished()
        self._best.wait_until_finished()

    def close(self) -> None:
        """Waits and frees the managers' threads."""
        self._last.close()
        self._best.close()


def _items(state: TrainState) -> tuple[dict, dict]:
    """The state as the two saved items: what inference needs, and the rest."""
    training = {"step": state.step, "opt_state": state.opt_state, "rng": state.rng}
    if state.ema is not None:
        training["params"] = state.params
    return state.best_variables(), training


def _state(variables: dict, training: dict, averaged: bool) -> TrainState:
    return TrainState(
        step=training["step"],
        params=training["params"] if averaged else variables["params"],
        batch_stats=variables["batch_stats"],
        opt_state=training["opt_state"],
        ema=variables["params"] if averaged else None,
        rng=training["rng"],
    )


def _composite(kind: Any, variables: dict, training: dict) -> ocp.args.Composite:
    return ocp.args.Composite(variables=kind(variables), training=kind(training))


def _check_same(stored: Any, expected: Any, path: epath.Path) -> None:
    """Raises our own error before Orbax reads arrays of another model or optimizer."""
    found, wanted = _shapes(metadata_tree(stored)), _shapes(expected)
    lines = [
        f"{name}: checkpoint {found.get(name, 'absent')}, this run {wanted.get(name, 'absent')}"
        for name in sorted(found.keys() | wanted.keys())
        if found.get(name) != wanted.get(name)
    ]
    if lines:
        more = [f"... and {len(lines) - 8} more"] if len(lines) > 8 else []
        raise ValueError(
            f"{path} was saved by another model or optimizer; these arrays differ:\n  "
            + "\n  ".join(lines[:8] + more)
            + "\nUse the config it was saved with, or another --workdir."
        )


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    """Path -> shape; a stored tree has dicts where ours has tuples, spelled alike here."""
    leaves = jax.tree.leaves_with_path(tree)
    return {jax.tree_util.keystr(p, simple=True, separator="/"): tuple(x.shape) for p, x in leaves}


def _manager(folder: epath.Path, keep: int, handlers: dict) -> ocp.CheckpointManager:
    options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=True)
    return ocp.CheckpointManager(folder, options=options, item_handlers=handlers)
