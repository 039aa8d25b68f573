"""Signals that finish the step at hand."""

from __future__ import annotations

import signal
from contextlib import AbstractContextManager
from typing import Any

SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


class StopSignal(AbstractContextManager):
    """Inside `with`, Ctrl-C, SIGTERM or SIGHUP (the terminal was closed) sets `asked`, so that the work can end where it may
    be continued; a second Ctrl-C raises KeyboardInterrupt. SIGHUP stays ignored where it is, as under nohup. Outside the
    main thread there are no signals, and nothing is set."""

    def __init__(self) -> None:
        self.asked = False
        self._old: dict[int, Any] = {}

    def __enter__(self) -> StopSignal:
        try:
            for number in SIGNALS:
                old = signal.getsignal(number)
                if number == signal.SIGINT or old is not signal.SIG_IGN:
                    signal.signal(number, self._ask)
                    self._old[number] = old
        except ValueError:  # not the main thread
            self._old = {}
        return self

    def __exit__(self, *error: object) -> None:
        while self._old:
            signal.signal(*self._old.popitem())
        self.asked = False

    def _ask(self, number: int, frame: Any) -> None:
        if self.asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.asked = True
