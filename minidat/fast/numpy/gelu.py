"""GELU in float32 from a table of cubics.

GELU has one argument, and the upper 16 bits of a float32 (sign, exponent, seven bits of the fraction) determine it to
under one percent. Over so short a piece a polynomial of third degree is GELU to the last digits, and its derivative is the
slope. An exponential, a division and some twenty more passes become one table read and nine sums and products. The table
takes 1 MB, which leaves less of the cache to other arrays. Chapter 16 measures the gain.
"""

from __future__ import annotations

import sys
from functools import cache

import numpy as np

from minidat import ops
from minidat.autograd import is_recording
from minidat.autograd.backend import erf
from minidat.fast.dispatch import NUMPY
from minidat.ops.gelu import INV_SQRT2, INV_SQRT2PI

BLOCK = 16384  # elements: small enough for the cache, large enough for the calls to be few beside the work
FAR = -8.0, 6.0  # below and above GELU is 0 and x in float32
_UPPER = 1 if sys.byteorder == "little" else 0  # which half of a float32 comes second in memory


@NUMPY.implements(ops.gelu)
def gelu(x):
    """y = x Φ(x) in float32; see `ops.gelu`."""
    if x.dtype != np.float32:
        return NotImplemented
    y, slope = np.empty(x.shape, x.dtype), np.empty(x.shape, x.dtype) if is_recording() else None
    value_and_slope(x, y, slope)

    def vjp(dy):
        if slope is None:
            raise RuntimeError("gelu: it ran under no_grad() and kept nothing for a gradient")
        return (dy * slope,)

    return y, vjp


def value_and_slope(x: np.ndarray, y: np.ndarray, slope: np.ndarray | None) -> None:
    """GELU of x, float32, into y, which may be x itself, and its slope into `slope` where that is not None; y and slope
    are C-contiguous."""
    x, y = np.ascontiguousarray(x).reshape(-1), y.reshape(-1)
    slope = None if slope is None else slope.reshape(-1)
    for start in range(0, x.size, BLOCK):
        block = slice(start, start + BLOCK)
        _read(x[block], y[block], None if slope is None else slope[block])


def _read(x: np.ndarray, y: np.ndarray, slope: np.ndarray | None) -> None:
    """y = a + x (b + x (c + x d)) and dy/dx = b + x (c + x d) + x (c + 2 x d), the four read from the table."""
    index = x.view(np.uint16)[_UPPER::2].astype(np.intp)
    read = np.take(cubics(), index, mode="wrap").view(np.float32)  # "wrap": the mode that checks least
    a, b, c, d = read.reshape(-1, 4).T
    xd = x * d
    inner = xd + c
    if slope is not None:
        np.add(xd, inner, out=slope)
        slope *= x
    inner *= x
    inner += b
    if slope is not None:
        slope += inner
    np.multiply(inner, x, out=y)
    y += a


@cache
def cubics() -> np.ndarray:
    """(65536,): the coefficients of GELU about the middle of the numbers that begin with these 16 bits: four float32,
    adjacent in memory, as one complex number, so that one read fetches them all."""
    bits = np.arange(1 << 16, dtype=np.uint32) << 16
    with np.errstate(invalid="ignore", over="ignore"):
        x = (bits.view(np.float32).astype(np.float64) + (bits | 0xFFFF).view(np.float32)) / 2
        below, above, nan = x < FAR[0], x > FAR[1], np.isnan(x)
    x[below | above | nan] = 0
    density = np.exp(-x * x / 2) * INV_SQRT2PI
    cdf = 0.5 + 0.5 * erf(x * INV_SQRT2)
    taylor = [x * cdf, cdf + x * density, (2 - x * x) * density / 2, (x * x - 4) * x * density / 6]  # about x
    a = taylor[0] - x * (taylor[1] - x * (taylor[2] - x * taylor[3]))  # about 0
    b = taylor[1] - x * (2 * taylor[2] - x * 3 * taylor[3])
    c = taylor[2] - x * 3 * taylor[3]
    table = np.stack([a, b, c, taylor[3]], -1).astype(np.float32)
    for where, line in ((below, 0), (above, [0, 1, 0, 0]), (nan, np.nan)):
        table[where] = line
    return table.view(np.complex128)[:, 0].copy()
