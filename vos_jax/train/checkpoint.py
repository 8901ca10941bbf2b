"""Checkpoints of training runs, written with Orbax.

    WORKDIR/config.json, manifest.json     what was asked for, where and with what it ran
    WORKDIR/last/<step>/variables          what inference uses: params (averaged where the run
                                           keeps an average) and batch_stats
    WORKDIR/last/<step>/training           the rest of TrainState
    WORKDIR/best/<step>/variables, score   variables of the best evaluation, and that evaluation

last and best have a manager each: a single one with best_fn deletes the newest step. They never
write at the same time: processes meet at barriers that Orbax names after the step alone, so two
managers that save one step would take each other's. Every path may be remote (etils.epath).

A step that cannot be read, as after a crash of the machine or a copy that was cut short, is moved
to WORKDIR/damaged/ and the one before it counts.
"""

import contextlib
import errno
import functools
import math
import os
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath
from jax.experimental import multihost_utils

from vos_jax.checkpoint_folder import absolute, damage, first_line, metadata_tree, step_folders
from vos_jax.notes import note
from vos_jax.train.state import TrainState

LAST, BEST, DAMAGED = "last", "best", "damaged"
ITEMS = {LAST: ("variables", "training"), BEST: ("variables", "score")}


class OtherRun(ValueError):
    """A checkpoint of another model or optimizer than the run's."""


class SaveError(OSError):
    """A checkpoint could not be written: the run would lose what it does from here on."""


@functools.cache
def _hush_closed_loops() -> None:
    """Of a failed save the error is told, not the hundreds in which its other writes end.

    Their threads still report to the event loop that the error has closed, and Python prints what
    cannot be raised there.
    """
    before = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        if "Event loop is closed" not in str(unraisable.exc_value):
            before(unraisable)

    sys.unraisablehook = hook
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)


class Checkpoints:
    """The checkpoints of one workdir. Saving is asynchronous; wait() ends it.

    On several processes every method must be called by all of them.
    """

    def __init__(self, workdir: str | epath.Path, keep_last: int = 2):
        if keep_last < 1:
            raise ValueError(
                f"config.train.keep_last: expected at least 1 step to keep, got {keep_last}"
            )
        _hush_closed_loops()
        self.workdir = absolute(workdir)
        self._broken = False  # whether saving has failed
        self._set_damaged_aside()
        standard, scores = ocp.StandardCheckpointHandler, ocp.JsonCheckpointHandler
        self._last = _manager(
            self.workdir / LAST, keep_last, {"variables": standard(), "training": standard()}
        )
        self._best = _manager(self.workdir / BEST, 1, {"variables": standard(), "score": scores()})

    def latest_step(self) -> int | None:
        """The newest finished step in last/, or None."""
        return self._last.latest_step()

    def latest_path(self) -> epath.Path | None:
        """The folder of the newest finished step in last/, or None."""
        step = self.latest_step()
        return None if step is None else self.workdir / LAST / str(step)

    def save_last(self, state: TrainState) -> None:
        """Starts saving the whole state under its step; nothing if that step is there already."""
        step = int(state.step)
        if step in self._last.all_steps():
            return
        with self._saving():
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
        variables = ocp.args.StandardSave(state.best_variables())
        with self._saving():
            self._last.wait_until_finished()
            self._best.save(
                step, args=ocp.args.Composite(variables=variables, score=ocp.args.JsonSave(plain))
            )
        return True

    def best_scores(self) -> dict[str, float] | None:
        """The evaluation of the best step so far, or None."""
        with self._saving():
            self._best.wait_until_finished()
        wanted = ocp.args.Composite(score=ocp.args.JsonRestore())
        while (step := self._best.latest_step()) is not None:
            try:
                return self._best.restore(step, args=wanted)["score"]
            except Exception as error:  # of Orbax and what it stands on: any kind
                self._skip(self._best, self.workdir / BEST / str(step), error)
        return None

    def restore(self, target: TrainState, sharding: Any = None) -> TrainState:
        """The newest state of last/ that can be read, with the structure of target.

        target: arrays, or shapes with sharding given; its shardings are the result's. The devices
        may differ from those that saved. Raises FileNotFoundError without a checkpoint, OtherRun
        listing what differs, ValueError where no step can be read.
        """
        self.wait()
        if self.latest_step() is None:
            raise FileNotFoundError(f"no checkpoint in {self.workdir / LAST}; train first")
        sharding = jax.tree.map(lambda x: x.sharding, target) if sharding is None else sharding
        abstract = jax.tree.map(
            lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), target, sharding
        )
        while (step := self.latest_step()) is not None:
            try:
                return self._restored(step, abstract)
            except OtherRun:
                raise
            except Exception as error:  # of Orbax, TensorStore and what they stand on: any kind
                self._skip(self._last, self.latest_path(), error)
        raise ValueError(
            f"none of the steps in {self.workdir / LAST} could be read; they were moved to"
            f" {self.workdir / DAMAGED}. Run again to begin anew, or put a copy in their place"
        )

    def _restored(self, step: int, target: TrainState) -> TrainState:
        variables, training = _items(target)
        stored = self._last.item_metadata(step)
        _check_same(stored["variables"], variables, self.latest_path() / "variables")
        _check_same(stored["training"], training, self.latest_path() / "training")
        restored = self._last.restore(
            step, args=_composite(ocp.args.StandardRestore, variables, training)
        )
        return _state(restored["variables"], restored["training"], target.ema is not None)

    def wait(self) -> None:
        """Returns when everything that save_last and save_best started is on disk."""
        with self._saving():
            self._last.wait_until_finished()
            self._best.wait_until_finished()

    def close(self) -> None:
        """Waits and frees the managers' threads."""
        with contextlib.suppress(Exception) if self._broken else self._saving():
            self._last.close()
            self._best.close()

    @contextlib.contextmanager
    def _saving(self) -> Iterator[None]:
        """Raises SaveError for whatever keeps Orbax from writing."""
        try:
            yield
        except Exception as error:  # of Orbax, TensorStore and what they stand on: any kind
            self._broken = True
            whole = [s for s in step_folders(self.workdir / LAST) if not damage(s, ITEMS[LAST])]
            raise SaveError(
                f"{self.workdir}: a checkpoint could not be written: {_cause(error)}. Last whole"
                f" one: {whole[0] if whole else 'none was saved yet'}. Make room or mend the disk,"
                " then run the same command to continue"
            ) from error

    def _set_damaged_aside(self) -> None:
        """Steps whose files tell that they are not whole: Orbax would take them for the newest."""
        if jax.process_index() == 0:
            for kind, items in ITEMS.items():
                for step in step_folders(self.workdir / kind):
                    reason = damage(step, items)
                    if reason is not None:
                        self._set_aside(step, f"{reason}:")
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices("damaged steps were set aside")

    def _skip(self, manager: ocp.CheckpointManager, step: epath.Path, error: Exception) -> None:
        """A step that could not be read is set aside, and no longer the manager's newest."""
        reason = f"cannot be read ({first_line(error)})"
        if jax.process_count() > 1:  # the others may be able to read it
            raise ValueError(
                f"{step} {reason}; move it away, the step before it counts then"
            ) from error
        self._set_aside(step, f"{reason}:")
        manager.reload()

    def _set_aside(self, step: epath.Path, reason: str) -> None:
        folder = self.workdir / DAMAGED
        folder.mkdir(parents=True, exist_ok=True)
        name, number = f"{step.parent.name}_{step.name}", 0
        while (folder / name).exists():
            number += 1
            name = f"{step.parent.name}_{step.name}_{number}"
        step.rename(folder / name)
        note(
            f"{step} {reason} moved to {folder / name}; the step before it counts, if there is one"
        )


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
    if not found:
        raise ValueError("its description is missing")
    lines = [
        f"{name}: checkpoint {found.get(name, 'absent')}, this run {wanted.get(name, 'absent')}"
        for name in sorted(found.keys() | wanted.keys())
        if found.get(name) != wanted.get(name)
    ]
    if lines:
        more = [f"... and {len(lines) - 8} more"] if len(lines) > 8 else []
        raise OtherRun(
            f"{path} was saved by another model or optimizer; these arrays differ:\n  "
            + "\n  ".join(lines[:8] + more)
            + "\nUse the config it was saved with, or another --workdir."
        )


def _cause(error: BaseException) -> str:
    """What the system said, out of what libraries made of it."""
    text, seen = str(error), error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno is not None:
            return str(seen)
        seen = seen.__cause__ or seen.__context__
    known = (errno.ENOSPC, errno.EFBIG, errno.EROFS, errno.EDQUOT, errno.EACCES, errno.EIO)
    said = next((os.strerror(code) for code in known if os.strerror(code) in text), None)
    return said or first_line(error)


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    """Path -> shape; a stored tree has dicts where ours has tuples, spelled alike here."""
    leaves = jax.tree.leaves_with_path(tree)
    return {jax.tree_util.keystr(p, simple=True, separator="/"): tuple(x.shape) for p, x in leaves}


def _manager(folder: epath.Path, keep: int, handlers: dict) -> ocp.CheckpointManager:
    options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=True)
    return ocp.CheckpointManager(folder, options=options, item_handlers=handlers)
