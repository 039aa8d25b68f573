"""Ops again as loops for the CPU, compiled by numba. Optional. After `install()`, each of these ops runs its loop.

NumPy reads and writes the whole array for every operation. A compiled loop reads it once, works on a row in registers or in
the L1 cache, and computes e^x by a polynomial, for eight numbers at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class CompiledError(RuntimeError):
    """Compiled loops were asked for, and numba is not there."""


def _silent(_: str) -> Any: ...


def install(report: Callable[[str], Any] = _silent) -> None:
    """Enable the compiled loops in this process. A second call changes nothing.

    Loops are compiled here, for float32, unless an earlier process left them on disk; `report` is told so. Those for
    float64 are compiled when first used. Raises CompiledError, with no loop enabled, where numba is missing, does not go with
    this NumPy, or cannot compile.
    """
    from minidat.fast.dispatch import NUMBA

    try:
        import numba  # noqa: F401
    except Exception as error:  # a broken numba raises errors of any type
        raise CompiledError(
            f"compiled loops need numba (pip install numba); importing it said: {_line(error)}"
        ) from error
    try:
        from minidat.fast.numba import first_use

        NUMBA.enable()
        first_use.compile_all(report)
    except Exception as error:
        NUMBA.disable()
        raise CompiledError(f"numba cannot compile the loops: {_line(error)}") from error


def _line(error: Exception) -> str:
    """What an error says, in one line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
