"""How a loop is compiled: for one thread, without the interpreter's lock, once for each dtype, and kept on disk."""

from __future__ import annotations

from pathlib import Path

from numba import njit

loop = njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract", "reassoc", "nsz"})
"""Sums may be added up in any order, which lets a processor add eight numbers at a time. Infinities and NaN mean what they
mean in NumPy."""

formula = njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract"})
"""For a number, inside a loop: its operations stay in the order in which they are written."""


def forget_stale(folder: Path = Path(__file__).parent) -> None:
    """Remove what numba kept of loops that are older than any file here. It sees when a loop's own file changes, and not
    when what the loop calls does, `exp.py` or `cells.py`."""
    newest = max(file.stat().st_mtime for file in folder.glob("*.py"))
    for kept in (folder / "__pycache__").glob("*.nbi"):  # the index; without it what it lists is not read
        if kept.stat().st_mtime < newest:
            kept.unlink(missing_ok=True)
