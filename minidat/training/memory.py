"""Memory that is kept: fresh pages cost as much as the arithmetic that fills them."""

from __future__ import annotations

import ctypes
import sys

# glibc's mallopt: parameter → value. Large arrays come from the one heap, which is not given back while training.
ARENA_MAX, MMAP_THRESHOLD, TRIM_THRESHOLD, TOP_PAD = -8, -3, -1, -2
SETTINGS = {ARENA_MAX: 1, MMAP_THRESHOLD: 32 << 20, TRIM_THRESHOLD: 1 << 30, TOP_PAD: 64 << 20}


def keep_freed_memory() -> bool:
    """Have the C library keep freed arrays for the next ones instead of returning their pages to the system, which would
    have to clear them again. For the whole process; only glibc can be asked. Returns whether it was."""
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    return mallopt is not None and all([mallopt(name, value) for name, value in SETTINGS.items()])
