"""GELU with the exact erf: y = x Φ(x), where Φ is the normal distribution function.

dy/dx = Φ(x) + x φ(x), with the density φ(x) = e^(−x²/2) / √2π. In float32 on the CPU both come from a table: GELU has one
argument, and the upper 16 bits of a float32 (sign, exponent, seven bits of the fraction) say to under one percent which it
is. Over so short a piece a polynomial of third degree is GELU to the last digits, and its derivative is the slope. An
exponential, a division and some twenty more passes become one read and nine sums and products.
"""

from __future__ import annotations

import math
import sys
from functools import cache
from typing import Any

import numpy as np

from minidat.autograd.backend import array_module, erf
from minidat.autograd.engine import is_recording, op

BLOCK = 16384  # elements: small enough for the cache, large enough for the calls to be few beside the work
FAR = -8.0, 6.0  # below and above GELU is 0 and x in float32
_UPPER = 1 if sys.byteorder == "little" else 0  # which half of a float32 comes second in memory
_INV_SQRT2 = math.sqrt(0.5)
_INV_SQRT2PI = 1 / math.sqrt(2 * math.pi)


@op("... -> ...")
def gelu(x):
    """y = x Φ(x), Φ(x) = ½ (1 + erf(x/√2)); dx = dy (Φ(x) + x φ(x)). Any shape; keeps the dtype."""
    xp = array_module(x)
    y, slope = xp.empty(x.shape, x.dtype), xp.empty(x.shape if is_recording() else 0, x.dtype)
    value_and_slope(x, y, slope if is_recording() else None)
    return y, lambda dy: (dy * slope,)


def value_and_slope(x: Any, y: Any, slope: Any) -> None:
    """GELU of x into y, which may be x itself, and its slope into `slope` where that is not None; y and slope in C
    order."""
    xp = array_module(x)
    if xp is np and x.dtype == np.float32:
        x, y = np.ascontiguousarray(x).reshape(-1), y.reshape(-1)
        slope = None if slope is None else slope.reshape(-1)
        for start in range(0, x.size, BLOCK):
            block = slice(start, start + BLOCK)
            _read(x[block], y[block], None if slope is None else slope[block])
        return
    cdf = 0.5 + 0.5 * erf(x * _INV_SQRT2)
    if slope is not None:
        xp.add(cdf, x * (xp.exp(-0.5 * x * x) * _INV_SQRT2PI), out=slope)
    xp.multiply(x, cdf, out=y)


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
    """(65536,): the coefficients of GELU about the middle of what begins with these 16 bits, four float32 side by side in
    one complex number, so that one read fetches them all."""
    bits = np.arange(1 << 16, dtype=np.uint32) << 16
    with np.errstate(invalid="ignore", over="ignore"):
        x = (bits.view(np.float32).astype(np.float64) + (bits | 0xFFFF).view(np.float32)) / 2
        below, above, nan = x < FAR[0], x > FAR[1], np.isnan(x)
    x[below | above | nan] = 0
    density = np.exp(-x * x / 2) * _INV_SQRT2PI
    cdf = 0.5 + 0.5 * erf(x * _INV_SQRT2)
    taylor = [x * cdf, cdf + x * density, (2 - x * x) * density / 2, (x * x - 4) * x * density / 6]  # about x
    a = taylor[0] - x * (taylor[1] - x * (taylor[2] - x * taylor[3]))  # about 0
    b = taylor[1] - x * (2 * taylor[2] - x * 3 * taylor[3])
    c = taylor[2] - x * 3 * taylor[3]
    table = np.stack([a, b, c, taylor[3]], -1).astype(np.float32)
    for where, line in ((below, 0), (above, [0, 1, 0, 0]), (nan, np.nan)):
        table[where] = line
    return table.view(np.complex128)[:, 0].copy()
