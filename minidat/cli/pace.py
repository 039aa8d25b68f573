"""How fast a run trains, and how long it will take."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

RECENT_SECONDS = 30.0  # of training that speed is measured over


class Pace:
    """Seconds a step over the last 30 seconds of training. Tests and other work in between do not count as training.

    step: where the run is now. clock: seconds, from any start.
    """

    def __init__(self, step: int, clock: Callable[[], float] = time.perf_counter):
        self.clock, self.step, self.since = clock, step, clock()
        self.pieces: deque[tuple[int, float]] = deque()  # (steps, seconds), the latest last
        self.test_seconds = 0.0  # that the last test took

    def trained(self, step: int) -> None:
        """The run has come to this step, training since the last call of a method."""
        now = self.clock()
        self.pieces.append((step - self.step, now - self.since))
        self.step, self.since = step, now
        while len(self.pieces) > 1 and sum(s for _, s in self.pieces) - self.pieces[0][1] >= RECENT_SECONDS:
            self.pieces.popleft()

    def tested(self) -> None:
        """The time since the last call of `trained` went into a test."""
        now = self.clock()
        self.test_seconds, self.since = now - self.since, now

    def paused(self) -> None:
        """The time since the last call of a method went into something else, such as a picture."""
        self.since = self.clock()

    def seconds_per_step(self) -> float | None:
        """None before the first steps."""
        steps, seconds = (sum(column) for column in zip(*self.pieces, strict=True)) if self.pieces else (0, 0.0)
        return seconds / steps if steps > 0 else None

    def left(self, steps: int, tests: int) -> float | None:
        """Seconds for so many more steps and tests, each as long as the last ones; None before the first steps."""
        pace = self.seconds_per_step()
        return None if pace is None else steps * pace + tests * self.test_seconds
