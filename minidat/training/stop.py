"""Ctrl-C that finishes the step at hand."""

from __future__ import annotations

import signal
from contextlib import AbstractContextManager
from typing import Any


class StopSignal(AbstractContextManager):
    """Inside `with`, the first Ctrl-C (or SIGTERM) sets `asked`, so that the work can end where it may be continued; a
    second one raises KeyboardInterrupt. Outside the main thread there are no signals, and nothing is set."""

    def __init__(self) -> None:
        self.asked = False
        self._old: dict[int, Any] = {}

    def __enter__(self) -> StopSignal:
        try:
            self._old = {number: signal.signal(number, self._ask) for number in (signal.SIGINT, signal.SIGTERM)}
        except ValueError:  # not the main thread
            self._old = {}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: Any) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
