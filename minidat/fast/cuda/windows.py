"""Windows of a map on the GPU: one kernel, where a roll, a reshape and a copy would be three."""

from __future__ import annotations

import math
from typing import Any

from minidat import ops
from minidat.autograd import array_module
from minidat.fast.cuda.columns import at_once, by_element
from minidat.fast.cuda.compile import kernels
from minidat.fast.dispatch import CUDA


def _moved(name: str, x: Any, shape: tuple[int, ...], size: tuple[int, int], window: int, shift: int) -> Any:
    """x as windows or as a map, an array of `shape`; size: (H, W) of the map."""
    y = array_module(x).empty(shape, x.dtype)
    cuda = kernels("windows.cu", x)
    c, each = x.shape[-1], at_once(x.shape[-1], x, y)
    tokens, c = x.size // c, c // each
    cuda.launch(name, *by_element(tokens, c), x, y, tokens, *size, c, window, shift, each)
    return y


def _partition(x: Any, window: int, shift: int) -> Any:
    b, h, w, c = x.shape
    return _moved("window_partition", x, (b, h * w // window**2, window**2, c), (h, w), window, shift)


def _merge(t: Any, size: tuple[int, int], window: int, shift: int) -> Any:
    return _moved(
        "window_merge", t, (t.size // math.prod(size) // t.shape[-1], *size, t.shape[-1]), size, window, shift
    )


@CUDA.implements(ops.window_partition)
def window_partition(x, *, window: int, shift: int = 0):
    """Cut a map, rolled by −shift, into windows; see `ops.window_partition`."""
    xp, size = array_module(x), x.shape[1:3]
    if window < 1 or any(n % window for n in size):
        return NotImplemented  # the plain op raises the error
    return _partition(x, window, shift), lambda dy: (_merge(xp.ascontiguousarray(dy), size, window, shift),)


@CUDA.implements(ops.window_merge)
def window_merge(t, *, height: int, width: int, window: int, shift: int = 0):
    """Put windows back into a map and roll it by +shift; see `ops.window_merge`."""
    if window < 1 or height % window or width % window:
        return NotImplemented  # the plain op raises the error
    if t.shape[1:3] != (height // window * (width // window), window**2):
        return NotImplemented
    xp = array_module(t)
    y = _merge(t, (height, width), window, shift)
    return y, lambda dy: (_partition(xp.ascontiguousarray(dy), window, shift),)
