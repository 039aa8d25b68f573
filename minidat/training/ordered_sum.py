"""A sum to which several threads add, in one order whoever is first."""

from __future__ import annotations

from threading import Lock
from typing import Any


class OrderedSum:
    """Terms 0, 1, 2, … added in this order to the array `total`, so that rounding is the same for any number of threads.

    A term that comes before its turn is kept, and added by the thread that brings the one before it: nobody waits.
    """

    def __init__(self, total: Any):
        self.total, self._lock = total, Lock()
        self.restart()

    def restart(self) -> None:
        """The next term is 0. Leaves `total` alone."""
        self._turn, self._early = 0, {}

    def add(self, turn: int, term: Any) -> None:
        """Term number `turn`; None where there is none, which counts as zeros. Each number must come once."""
        with self._lock:
            self._early[turn] = term
            while self._turn in self._early:
                term = self._early.pop(self._turn)
                if term is not None:
                    self.total += term
                self._turn += 1
