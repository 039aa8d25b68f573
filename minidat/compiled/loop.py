"""How a loop is compiled: for one thread, without the interpreter's lock, once for each dtype, and kept on disk.

Numba keeps a loop in `__pycache__` until the loop's own file changes; it does not see a change of what the loop calls, in
`exp.py` or `cells.py`. After one, `make clean`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

loop = njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract", "reassoc", "nsz"})
"""Sums may be added up in any order, which lets a processor add eight numbers at a time. Infinities and NaN mean what they
mean in NumPy."""

formula = njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract"})
"""For a number, inside a loop: its operations stay in the order in which they are written."""


def takes(array: Any) -> bool:
    """Whether compiled loops take this array: one of NumPy's, in float32 or float64."""
    return type(array) is np.ndarray and array.dtype in (np.float32, np.float64)
