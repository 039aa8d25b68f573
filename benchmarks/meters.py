"""Seconds and megabytes of a process's work, on the CPU and on a GPU."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

MEGABYTE = 1 << 20
UNTIMED = 5  # calls before a GPU's clock is read: an idle GPU lowers its clock rate
Work = Callable[[], None]


class Host:
    """Wall-clock time, and the peak of the resident set above what the process held when this was made."""

    def __init__(self) -> None:
        self.reset()
        self.base = self._memory("VmRSS")

    def seconds(self, work: Work, repeats: int) -> float:
        """Of one of `repeats` calls."""
        start = time.perf_counter()
        for _ in range(repeats):
            work()
        return (time.perf_counter() - start) / repeats

    def reset(self) -> None:
        """Begin to look for a peak."""
        Path("/proc/self/clear_refs").write_text("5")

    def megabytes(self) -> float:
        return self._memory("VmHWM") - self.base

    def _memory(self, field: str) -> float:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


class Cuda:
    """Time between two CUDA events around the work, and what the library's allocator has taken from the device.

    event() makes an event; between(a, b) are the milliseconds from one to the other.
    """

    def __init__(self, event: Callable[[], Any], between: Callable[[Any, Any], float]):
        self.event, self.between = event, between

    def seconds(self, work: Work, repeats: int) -> float:
        for _ in range(UNTIMED):
            work()
        start, end = self.event(), self.event()
        start.record()
        for _ in range(repeats):
            work()
        end.record()
        end.synchronize()
        return self.between(start, end) / 1000 / repeats


class Cupy(Cuda):
    """CuPy's pools keep what they once took, so what they hold is their peak. more: pools beside the default one; the list
    may grow later."""

    def __init__(self, more: list[Any]) -> None:
        import cupy

        super().__init__(cupy.cuda.Event, cupy.cuda.get_elapsed_time)
        self.pool, self.more = cupy.get_default_memory_pool(), more

    def reset(self) -> None:
        self.pool.free_all_blocks()

    def megabytes(self) -> float:
        return sum(pool.total_bytes() for pool in (self.pool, *self.more)) / MEGABYTE


class Torch(Cuda):
    """PyTorch's allocator, by what it reserved."""

    def __init__(self) -> None:
        import torch

        super().__init__(lambda: torch.cuda.Event(enable_timing=True), lambda a, b: a.elapsed_time(b))
        self.cuda = torch.cuda

    def reset(self) -> None:
        self.cuda.empty_cache()
        self.cuda.reset_peak_memory_stats()

    def megabytes(self) -> float:
        return self.cuda.max_memory_reserved() / MEGABYTE
