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
    float64 are compiled when first used. Raises CompiledError where numba is missing or does not go with this NumPy.
    """
    try:
        import numba  # noqa: F401
    except ImportError as error:
        raise CompiledError(f"compiled loops need numba: pip install numba; importing it said: {error}") from error
    from minidat.fast.dispatch import NUMBA
    from minidat.fast.numba import first_use

    NUMBA.enable()
    first_use.compile_all(report)
