"""A trace of some training steps by jax.profiler, for TensorBoard or Perfetto."""

from collections.abc import Callable, Sequence

import jax
from etils import epath

from vos_jax.notes import note


class Profile:
    """Traces steps first..last of a run into workdir/profile, once; every process its own file.

    A context: a trace that has begun is written where the run ends early, too.

    steps: config.profile_steps, (first, last), counted from 1, or (). coming: the steps that the
    run takes, counted from 0; a range of other steps is told, and nothing is traced.
    """

    def __init__(self, steps: Sequence[int], workdir: epath.Path, coming: range):
        self.folder = epath.Path(workdir) / "profile"
        self._first, self._last = steps or (0, 0)
        self._running = False
        missed = steps and not coming.start < self._first <= self._last <= coming.stop
        if missed:
            note(
                f"config.profile_steps={tuple(steps)}: this run takes the steps"
                f" {coming.start + 1} to {coming.stop}; nothing is profiled"
            )
            self._first = 0

    def __enter__(self) -> "Profile":
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def before(self, step: int, settle: Callable[[], None]) -> None:
        """Before `step`, counted from 0; settle: waits for the steps that were started."""
        if step + 1 == self._first:
            settle()
            jax.profiler.start_trace(str(self.folder))
            self._running = True

    def after(self, done: int, settle: Callable[[], None]) -> None:
        """After `done` steps were started."""
        if self._running and done == self._last:
            settle()
            self._stop()

    def _stop(self) -> None:
        if self._running:
            self._running = False
            jax.profiler.stop_trace()
            note(f"profile of steps {self._first} to {self._last} in {self.folder}")
