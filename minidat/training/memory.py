"""Keep freed memory in the process: fresh pages from the system cost as much time as the arithmetic that fills them."""

from __future__ import annotations

import ctypes
import sys

# glibc's mallopt: parameter → value. Large arrays come from one heap, which is not returned to the system while training.
ARENA_MAX, MMAP_THRESHOLD, TRIM_THRESHOLD, TOP_PAD = -8, -3, -1, -2
SETTINGS = {ARENA_MAX: 1, MMAP_THRESHOLD: 32 << 20, TRIM_THRESHOLD: 1 << 30, TOP_PAD: 64 << 20}


def keep_freed_memory() -> bool:
    """Have the C library reuse the memory of freed arrays. It would return their pages to the system, which clears them before
    it hands them out again. This holds for the whole process, and only where the C library is glibc. Returns whether it is."""
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    return mallopt is not None and all([mallopt(name, value) for name, value in SETTINGS.items()])
