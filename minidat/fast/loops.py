"""Which loops work on the CPU: NumPy's, or those that numba compiles. A run keeps its choice: results differ by rounding."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from minidat.fast import numba
from minidat.fast.dispatch import NUMBA, is_off

LOOPS = ("numba", "numpy")
AUTO = "auto"
DEFAULT = os.environ.get("MINIDAT_LOOPS", AUTO)
"""What is used where nothing is said; `MINIDAT_LOOPS` in the environment changes it."""


def use(name: str, report: Callable[[str], Any] = lambda _: None) -> str:
    """Work with these loops from now on, in this process. Returns the name of those that are used.

    name: of `LOOPS`; or "auto", numba's where numba works. Where it does not, NumPy works, and `report` is told why in one
    line; it is also told when loops are compiled. With the speed floor switched off (`MINIDAT_FAST=off`) neither is used.
    Raises ValueError for another name.
    """
    if name not in (AUTO, *LOOPS):
        raise ValueError(f"loops {name!r} is unknown; choose from {', '.join((AUTO, *LOOPS))}")
    if name != "numpy" and not is_off():
        try:
            numba.install(report)
            return "numba"
        except numba.CompiledError as error:
            report(f"NumPy's loops are used: {error}")
    NUMBA.disable()
    return "numpy"
