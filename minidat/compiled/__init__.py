"""Loops for the CPU, compiled by numba: twins of the ops for arrays of NumPy. Nothing needs them, and all is theirs alone
once `install()` was called.

NumPy goes over an array once for every operation. A compiled loop goes over it once, with a row in the registers or in the
nearest cache, and a polynomial for e^x that the processor computes for eight numbers at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

PACKAGE = "minidat[compiled]"


class CompiledError(RuntimeError):
    """Compiled loops were asked for, and numba is not there."""


def _silent(_: str) -> Any: ...


def install(report: Callable[[str], Any] = _silent) -> None:
    """Give ops their compiled twins, in this process and for good. A second call changes nothing.

    Loops are compiled here, for float32, where they are not on disk from an earlier time; `report` is told so. Those for
    float64 are compiled when first used. Raises CompiledError where numba is missing or does not go with this NumPy.
    """
    try:
        import numba  # noqa: F401
    except ImportError as error:
        raise CompiledError(
            f"compiled loops need numba: pip install '{PACKAGE}'; importing it said: {error}"
        ) from error
    from minidat.compiled import first_use
    from minidat.compiled.loop import forget_stale, takes
    from minidat.kernels.twins import install as install_twins

    forget_stale()
    install_twins(takes)
    first_use.compile_all(report)
