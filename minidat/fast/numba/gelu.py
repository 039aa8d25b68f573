"""GELU in float32, with the bias before it, from the table of `fast/numpy/gelu.py`: one read per element, no array between."""

from __future__ import annotations

import numpy as np

from minidat import ops
from minidat.autograd import is_recording
from minidat.fast.dispatch import NUMBA
from minidat.fast.numba.loop import loop
from minidat.fast.numpy.gelu import cubics


def table() -> np.ndarray:
    """(65536, 4): a, b, c, d of GELU's cubic a + x (b + x (c + x d)), by the upper 16 bits of x."""
    return cubics().view(np.float32).reshape(-1, 4)


@loop
def bias_gelu(h, b, slope, table):
    """With x = h + b, a row b for all rows of h (n, e): h ← GELU(x), and slope ← GELU′(x) where slope has rows."""
    n, e = h.shape
    for i in range(n):
        row = h[i]
        for j in range(e):
            row[j] += b[j]
        bits = row.view(np.uint32)
        if len(slope):
            slopes = slope[i]
            for j in range(e):
                x, cubic = row[j], table[bits[j] >> np.uint32(16)]
                xd = x * cubic[3]
                inner = xd + cubic[2]
                steep = (xd + inner) * x
                inner = inner * x + cubic[1]
                row[j] = inner * x + cubic[0]
                slopes[j] = steep + inner
        else:
            for j in range(e):
                x, cubic = row[j], table[bits[j] >> np.uint32(16)]
                row[j] = ((x * cubic[3] + cubic[2]) * x + cubic[1]) * x + cubic[0]


@loop
def gelu_vjp(dh, slope, db):
    """dh ← dh · slope, both (n, e), and db (e) += Σ dh over rows."""
    n, e = dh.shape
    for i in range(n):
        row, slopes = dh[i], slope[i]
        for j in range(e):
            row[j] *= slopes[j]
            db[j] += row[j]


@NUMBA.implements(ops.gelu)
def gelu(x):
    """y = x Φ(x); see `ops.gelu`."""
    if x.dtype != np.float32:
        return NotImplemented
    y = x.reshape(1, -1).copy()
    slope = np.empty((1 if is_recording() else 0, x.size), x.dtype)
    bias_gelu(y, np.zeros(x.size, x.dtype), slope, table())
    return y.reshape(x.shape), lambda dy: (dy * slope.reshape(x.shape),)
