"""A training step as a CUDA graph: recorded once, then launched by one call, where small kernels cost less than launching them.

Source: CUDA's programming guide on stream capture. A capture executes nothing; it keeps every kernel with its arguments, so
numbers are baked in and addresses must stay valid: what changes from step to step comes from arrays that are refilled, and
memory comes from a pool of the graph's own, which nobody else takes from.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from types import ModuleType
from typing import Any

WARM_UP = 2  # calls before the capture: kernels are compiled and constants made, which a capture does not allow


class Graphed:
    """`work`, which takes and gives nothing, as a CUDA graph from its third call on. xp: CuPy.

    The current stream must be a non-blocking one, the same at every call. Where `work` cannot be captured, `note` is told why,
    once, and every call is `work` itself: a capture that fails has done nothing.
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
        with self.xp.cuda.using_allocator(self.pool.malloc):  # so that the capture finds all memory there
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
                        stream.end_capture()  # the stream must not go on capturing; that it failed is known
                    raise
                return stream.end_capture()
        except Exception as error:  # whatever a capture refuses: CuPy and CUDA have many words for it
            self.note(f"training without a CUDA graph: the step cannot be captured ({type(error).__name__}: {error})")
            return None
