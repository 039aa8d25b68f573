"""Small arrays to a GPU, in one copy."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np

ALIGNMENT = 16  # bytes


def upload(xp: ModuleType, arrays: Sequence[np.ndarray]) -> list[Any]:
    """Copies of small arrays on the device, sent together. CuPy stages them in pinned memory, so the host does not wait."""
    starts = np.cumsum([0, *(-(-a.nbytes // ALIGNMENT) * ALIGNMENT for a in arrays)]).tolist()
    host = np.zeros(starts[-1], np.uint8)
    for start, array in zip(starts, arrays):
        host[start : start + array.nbytes] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    there = xp.asarray(host)
    return [there[s : s + a.nbytes].view(a.dtype).reshape(a.shape) for s, a in zip(starts, arrays)]
