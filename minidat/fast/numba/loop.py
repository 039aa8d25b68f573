"""How a loop is compiled: for one thread, without the interpreter's lock, once for each dtype, and kept on disk.

numba checks only a loop's own file when it looks for a compiled loop on disk, not the files of what the loop calls. So each
state of this folder has a cache folder of its own, named by a digest of all its files: after an upgrade nothing old is used.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

import numba

FOLDER = Path(__file__).parent
NAME = "minidat-loops-"


def digest(folder: Path = FOLDER) -> str:
    """Sixteen hexadecimal digits that change with any file of the folder."""
    files = sorted(folder.glob("*.py"))
    return sha256(b"".join(file.name.encode() + b"\0" + file.read_bytes() + b"\0" for file in files)).hexdigest()[:16]


def cache_folder() -> Path | None:
    """Where compiled loops are kept: in NUMBA_CACHE_DIR if that is set, else beside these files, else in the user's cache
    folder. None where none of them can be written."""
    chosen = os.environ.get("NUMBA_CACHE_DIR")
    places = [Path(chosen)] if chosen else [FOLDER / "__pycache__"]
    if not chosen:
        with suppress(RuntimeError):  # a user without a home
            places.append(Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "minidat")
    for place in places:
        with suppress(OSError):
            folder = place / (NAME + digest())
            folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()
            forget_others(folder)
            return folder
    return None


def forget_others(folder: Path) -> None:
    """Remove the folders of older states beside this one."""
    for other in folder.parent.glob(NAME + "*"):
        if other != folder:
            shutil.rmtree(other, ignore_errors=True)


CACHE = cache_folder()


def compiled(**options: Any) -> Callable[[Callable], Any]:
    """numba's `njit` with these options; what it compiles is kept in `CACHE`."""

    def decorate(function: Callable) -> Any:
        config: Any = numba.config
        before, config.CACHE_DIR = config.CACHE_DIR, str(CACHE or "")
        try:
            return numba.njit(nogil=True, cache=CACHE is not None, error_model="numpy", **options)(function)
        finally:
            config.CACHE_DIR = before

    return decorate


loop = compiled(fastmath={"contract", "reassoc", "nsz"})
"""Sums may be added up in any order, which lets a processor add eight numbers at a time. Infinities and NaN mean what they
mean in NumPy."""

formula = compiled(fastmath={"contract"})
"""For a single number, called inside a loop: its operations stay in the order in which they are written."""
