"""How fast a run goes: steps a second, the share of waiting for data, the time that is left."""

import contextlib
import time
from collections.abc import Iterator


class Clock:
    """Measures steps from the first one that is no compilation; what is paused does not count."""

    def __init__(self):
        self._begun: tuple[int, float] | None = None  # steps done, and when, as measuring began
        self._window: tuple[int, float] | None = None  # ... and as the last speed was told
        self._waited = self._paused = 0.0

    def begin(self, done: int) -> None:
        """Measure from now on, `done` steps being done; later calls change nothing."""
        if self._begun is None:
            self._begun = self._window = (done, self._now())
            self._waited = 0.0

    @contextlib.contextmanager
    def pause(self) -> Iterator[None]:
        """What happens within is no training: an evaluation, say."""
        started = time.monotonic()
        try:
            yield
        finally:
            self._paused += time.monotonic() - started

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """What happens within is waiting for data."""
        started = time.monotonic()
        try:
            yield
        finally:
            self._waited += time.monotonic() - started

    def speed(self, done: int, last: int) -> dict[str, float]:
        """Since the last call: steps_per_second and data_wait, a share; seconds_left of the run.

        Empty before a step has been measured.
        """
        if self._begun is None:
            return {}
        now, waited = self._now(), self._waited
        measured, elapsed = done - self._window[0], now - self._window[1]
        self._window, self._waited = (max(done, self._begun[0]), now), 0.0
        if measured <= 0:
            return {}
        left = (last - done) * (now - self._begun[1]) / (done - self._begun[0])
        return {
            "steps_per_second": measured / elapsed,
            "data_wait": waited / elapsed,
            "seconds_left": left,
        }

    def _now(self) -> float:
        return time.monotonic() - self._paused
