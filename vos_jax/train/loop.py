"""The train loop of every system: resume, step, log, evaluate, save, and stop in good order.

Nothing here is random or stateful besides TrainState: batch s is asked for by its first example,
so a run that was interrupted and resumed takes the same steps as one that was not.
"""

import contextlib
import dataclasses
import math
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from vos_jax.notes import progress_bar, say
from vos_jax.train.checkpoint import Checkpoints
from vos_jax.train.clock import Clock
from vos_jax.train.last_words import last_words
from vos_jax.train.logs import Logger
from vos_jax.train.partition import check_batch, local_rows, shard_batch
from vos_jax.train.profile import Profile
from vos_jax.train.state import TrainState
from vos_jax.train.throughput import Throughput, step_work

ALSO_STOP = (signal.SIGINT, signal.SIGHUP)  # besides SIGTERM
Batches = Callable[[int], Iterator[dict[str, Any]]]
Evaluate = Callable[[dict, int], dict[str, float]]


class NonFiniteLoss(FloatingPointError):
    """The loss, or a number of the state, became NaN or infinite."""


class Preempted(SystemExit):
    """The run was told to stop, and saved its state: exits with 128 + the signal's number."""


@dataclasses.dataclass
class TrainResult:
    """state: after the last step. scores: the last evaluation, {} without one."""

    state: TrainState
    scores: dict[str, float]


def train(
    config: Any,
    *,
    state: TrainState,
    train_step: Callable[[TrainState, dict], tuple[TrainState, dict]],
    mesh: Mesh,
    batches: Batches,
    checkpoints: Checkpoints,
    logger: Logger,
    evaluate: Evaluate | None = None,
) -> TrainResult:
    """Trains until config.train.steps, from the newest checkpoint of the workdir if it has one.

    state: placed on the mesh; it is donated. batches(i): this process's part of every batch from
    global example i on, each a dict of arrays and a list "name". evaluate(variables, step): equal
    scalars on every process, called every config.eval.every steps and at the end; the variables
    with the highest config.eval.metric are kept in best/.

    Raises NonFiniteLoss with step, clip names and the last good checkpoint; Preempted after
    SIGTERM, SIGHUP or an interrupt from the keyboard, with the state saved.
    """
    check_batch(config.train.batch, config.train.accumulate, mesh)
    if checkpoints.latest_step() is not None:
        state = checkpoints.restore(state)
        logger.resumed(int(state.step))
        _say(f"resumed from {checkpoints.latest_path()}")
    first, last = int(state.step), config.train.steps
    if first > last:
        _say(
            f"nothing is trained: the run is at step {first} already, and config.train.steps is"
            f" {last}; raise it to go on"
        )
    run = _Run(config, mesh, checkpoints, logger, first)
    scores: dict[str, float] = {}
    if _due(first, config.eval.every, last) and first:
        # The interruption may have come after saving and before evaluating this step.
        scores = run.evaluate(evaluate, state)

    stream = _closable(batches(first * config.train.batch))
    # Closed here, not by the garbage collector, where ending the reader's threads takes seconds.
    with (
        contextlib.closing(stream),
        _StopSignal() as stop,
        run.progress(last),
        _watched(checkpoints),
        Profile(config.profile_steps, checkpoints.workdir, range(first, last)) as profile,
    ):
        for step in range(first, last):
            batch = run.next_batch(stream, step)
            arrays = shard_batch(batch, mesh)
            if step == first:
                run.look_at(train_step, state, arrays)
            profile.before(step, run.settle)
            state, metrics = train_step(state, arrays)
            run.settle()  # the step before this one: the device is never left idle
            run.launched(_InFlight(step, metrics, batch.get("name"), batch.get("bad_clips", 0)))
            done = step + 1
            profile.after(done, run.settle)
            run.report(done, last)
            stopping = stop.requested(done)
            if stopping or run.save_due(done, last):
                run.save(state)
            if stopping:
                run.stop(done, stop)
            if _due(done, config.eval.every, last):
                run.settle()
                scores = run.evaluate(evaluate, state) or scores
    checkpoints.wait()
    return TrainResult(state, scores)


def _watched(checkpoints: Checkpoints) -> contextlib.AbstractContextManager:
    """Of a run on several processes, each says it when it ends because another one is lost."""
    if jax.process_count() == 1:
        return contextlib.nullcontext()
    return last_words(
        f"process {jax.process_index()} of {jax.process_count()} ended without saving: it was"
        " killed, or another process of the run was lost. Run the same command in every process:"
        f" it goes on from the newest whole step in {checkpoints.workdir}"
    )


class _InFlight(NamedTuple):
    """A step that was started: its metrics are still to come."""

    step: int
    metrics: dict[str, jax.Array]
    names: list[str] | None  # of the clips of this process
    bad_clips: int  # skipped by this process so far


class _Run:
    """What the loop keeps besides the state: the step in flight, metrics since the last line."""

    def __init__(self, config, mesh, checkpoints, logger, first):
        self.config, self.mesh = config, mesh
        self.checkpoints, self.logger = checkpoints, logger
        self._in_flight: _InFlight | None = None
        self._window: list[dict[str, float]] = []
        self._bad_clips = 0
        self._clock, self._saved_at = Clock(), time.monotonic()
        self._throughput: Throughput | None = None
        self._first, self._bar = first, None

    def progress(self, last: int):
        """The progress bar, as a context; plain lines instead where stderr is no terminal."""
        shown = jax.process_index() == 0
        self._bar = progress_bar(
            total=last, initial=self._first, unit="step", shown=shown, dynamic_ncols=True
        )
        return self._bar

    def next_batch(self, stream: Iterator[dict], step: int) -> dict:
        with self._clock.waiting():
            try:
                return next(stream)
            except StopIteration:
                raise ValueError(
                    f"the training data ended before step {step} of {self.config.train.steps}: "
                    "a training stream must repeat without end"
                ) from None

    def look_at(self, train_step: Callable, state: TrainState, batch: dict) -> None:
        """Counts the work of a step, before it is compiled."""
        work = step_work(train_step, state, batch, self.mesh.devices.flat[0].platform)
        dtype = self.config.get("model", {}).get("dtype", "float32")
        self._throughput = Throughput(work, self.config.train.batch, self.mesh, dtype)
        if work is not None and work.unknown:
            _say(
                "flops_per_step of the log is a lower bound: loops that end by their data"
                f" ({work.unknown} of them) count as one trip"
            )

    def launched(self, in_flight: _InFlight) -> None:
        """Keeps a step that was started, to settle it when the next one is."""
        self._in_flight = in_flight

    def settle(self) -> None:
        """Fetches the metrics of the step in flight; raises NonFiniteLoss if it went wrong."""
        if self._in_flight is None:
            return
        step, metrics, names, self._bad_clips = self._in_flight
        self._in_flight = None
        metrics = jax.device_get(metrics)
        losses = metrics.pop("losses")
        if not metrics.pop("finite"):
            self.checkpoints.wait()
            message = self._diagnosis(step, losses, names)
            raise NonFiniteLoss(message)
        self._window.append({name: float(value) for name, value in metrics.items()})
        self._clock.begin(step + 2)  # the first step is mostly compilation; the next runs already

    def report(self, done: int, last: int) -> None:
        """Advances the bar; every config.log.every steps writes the means of the window."""
        self._bar.update(1)
        if done % self.config.log.every and done != last:
            return
        self.settle()
        values = {k: float(np.mean([m[k] for m in self._window])) for k in self._window[0]}
        self._window = []
        shown = {"loss": f"{values['loss']:.4f}", "lr": f"{values['learning_rate']:.2e}"}
        if self._bad_clips:
            values["bad_clips"] = shown["bad clips"] = self._bad_clips
        speed = self._clock.speed(done, last)
        left = speed.pop("seconds_left", 0.0)
        speed |= self._throughput.scalars(speed.get("steps_per_second"))
        self.logger.scalars("train", done, values | speed)
        if not self._bar.disable:
            self._bar.set_postfix(shown)
            return
        line = "  ".join([f"step {done}/{last}", *(f"{k} {v}" for k, v in shown.items())])
        if "steps_per_second" in speed:
            line += f"  {speed['steps_per_second']:.2f} steps/s  ETA {_duration(left)}"
        _say(line)

    def save_due(self, done: int, last: int) -> bool:
        """Whether to save after this many steps; the same answer on every process."""
        config = self.config.train
        if _due(done, config.save_steps, last):
            return True
        if not config.save_minutes or done % self.config.log.every:
            return False
        late = time.monotonic() - self._saved_at > 60 * config.save_minutes
        if jax.process_count() > 1:  # clocks differ; the first process decides
            late = bool(multihost_utils.broadcast_one_to_all(np.asarray(late)))
        return late

    def save(self, state: TrainState) -> None:
        """Starts saving a state that is known to be finite."""
        self.settle()
        self.checkpoints.save_last(state)
        self._saved_at = time.monotonic()

    def stop(self, done: int, told: "_StopSignal") -> None:
        """Raises Preempted once the state is saved."""
        self.checkpoints.wait()
        _say(
            f"stopped at step {done} by {told.name}; saved {self.checkpoints.latest_path()}. "
            "Run the same command to continue."
        )
        raise Preempted(128 + told.number)

    def evaluate(self, evaluate: Evaluate | None, state: TrainState) -> dict[str, float]:
        if evaluate is None:
            return {}
        step = int(state.step)
        with self._clock.pause():
            scores = {k: float(v) for k, v in evaluate(state.best_variables(), step).items()}
            best = self.checkpoints.save_best(state, scores, self.config.eval.metric)
        self.logger.scalars("eval", step, scores)
        shown = "  ".join(f"{name} {value:.4f}" for name, value in scores.items())
        _say(f"evaluation at step {step}: {shown}{'  (best so far)' if best else ''}")
        return scores

    def _diagnosis(self, step: int, losses: np.ndarray, names: list[str] | None) -> str:
        rows = local_rows(len(losses), self.mesh)
        names = names or [f"row {row}" for row in rows]
        bad = [n for n, row in zip(names, rows, strict=True) if not math.isfinite(losses[row])]
        elsewhere = sum(not math.isfinite(loss) for loss in losses) - len(bad)
        if not bad and not elsewhere:
            what = f"losses are finite, but the update is not; clips of the batch: {names}"
        else:
            what = f"loss not finite for clips: {bad}"
            if elsewhere:
                what += f" and {elsewhere} clip(s) of other processes, see their messages"
        good = self.checkpoints.latest_path() or "none was saved yet"
        return (
            f"training stopped at step {step}: {what}. Last good checkpoint: {good}. "
            "Look at these clips; else lower config.optim.learning_rate, lengthen "
            "warmup_steps or clip gradients (config.optim.clip)."
        )


class _StopSignal:
    """Whether the run was asked to stop, with the same answer on all processes at a step.

    SIGTERM, SIGHUP (a terminal that was closed), or the keyboard's interrupt (a second one stops at
    once). Several processes agree on a step by the JAX preemption service, which catches SIGTERM on
    any of them; the other signals are handed on to it.
    """

    number, name = int(signal.SIGTERM), "SIGTERM"

    def __enter__(self) -> "_StopSignal":
        self._received = False
        self._previous = {}
        main_thread = threading.current_thread() is threading.main_thread()
        alone = jax.process_count() == 1
        numbers = (signal.SIGTERM, *ALSO_STOP) if alone else ALSO_STOP
        for number in numbers if main_thread else ():  # Python allows handlers only there
            receive = self._receive if alone else self._hand_on
            self._previous[number] = signal.signal(number, receive)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def requested(self, done: int) -> bool:
        if jax.process_count() == 1:
            return self._received
        return multihost_utils.reached_preemption_sync_point(done)

    def _receive(self, number: int, _frame: object) -> None:
        self._received = True
        self.number, self.name = number, signal.Signals(number).name
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def _hand_on(self, number: int, _frame: object) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.raise_signal(signal.SIGTERM)


def _closable(batches: Iterator[dict]) -> Generator[dict, None, None]:
    """The same batches; closing it closes theirs, if that can be closed."""
    yield from batches


def _due(step: int, every: int, last: int) -> bool:
    return step == last or bool(every) and step % every == 0


def _duration(seconds: float) -> str:
    minutes = int(seconds // 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{minutes} min {int(seconds % 60):02d} s"


def _say(text: str) -> None:
    if jax.process_index() == 0:
        say(text)
