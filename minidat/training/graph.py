"""A training step as a CUDA graph: recorded once, then launched by one call, where small kernels cost less than launching them.

Source: CUDA's programming guide on stream capture. A capture executes nothing. It records every kernel with its arguments, so
numbers become constants and addresses must stay valid: what changes from step to step lies in arrays that are refilled, and the
graph has a memory pool of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from types import ModuleType
from typing import Any

WARM_UP = 2  # calls before the capture: kernels are compiled and constants made, which is not allowed in a capture


class Graphed:
    """`work`, a function without arguments and result, launched as a CUDA graph from its third call on. xp: CuPy.

    The current stream must be a non-blocking one, the same at every call. Where `work` cannot be captured, `note` is told why,
    once, and every call calls `work`. A capture that fails has changed nothing.
    """

    def __init__(self, work: Callable[[], None], xp: ModuleType, note: Callable[[str], None]):
        self.work, self.xp, self.note = work, xp, note
        self.pool = xp.cuda.MemoryPool()  # lives as long as the graph
        self.calls = 0
        self.graph: Any = None

    def __call__(self) -> None:
        if self.calls == WARM_UP:
            self.graph = self._captured()
        self.calls += 1
        if self.graph is not None:
            self.graph.launch()
            return
        with self.xp.cuda.using_allocator(self.pool.malloc):  # so that the pool has all memory that the capture needs
            self.work()

    def _captured(self) -> Any:
        """The graph, or None."""
        stream = self.xp.cuda.get_current_stream()
        try:
            with self.xp.cuda.using_allocator(self.pool.malloc):
                stream.begin_capture()
                try:
                    self.work()
                except BaseException:
                    with suppress(Exception):
                        stream.end_capture()  # end the capture; its failure is raised below
                    raise
                return stream.end_capture()
        except Exception as error:  # CuPy and CUDA raise errors of many types in a capture
            self.note(f"training without a CUDA graph: the step cannot be captured ({type(error).__name__}: {error})")
            return None
