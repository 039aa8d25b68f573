"""The time that a run takes."""

from __future__ import annotations

import time


class Clock:
    """Runs from its making on. seconds: those of earlier sittings, to which the time since is added."""

    def __init__(self, seconds: float):
        self._start = time.perf_counter() - seconds
        self._lap = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Of all sittings, tests included."""
        return time.perf_counter() - self._start

    def new_lap(self) -> None:
        """Begin to measure a speed."""
        self._lap = time.perf_counter()

    @property
    def lap(self) -> float:
        """Seconds since `new_lap`."""
        return time.perf_counter() - self._lap

    def images_per_second(self, images: int) -> float:
        """The speed of so many images since `new_lap`."""
        return images / max(self.lap, 1e-9)
