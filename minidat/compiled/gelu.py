"""GELU, with the bias before it, and its slope: one exponential an element for both."""

from __future__ import annotations

import numpy as np

from minidat import ops
from minidat.autograd import is_recording
from minidat.compiled.exp import normal
from minidat.compiled.loop import loop, takes
from minidat.kernels.twins import twin


@loop
def bias_gelu(h, b, slope):
    """With x = h + b, a row b for all rows of h (n, e): h ← x Φ(x), and slope ← Φ(x) + x φ(x) where slope has rows."""
    n, e = h.shape
    for i in range(n):
        row = h[i]
        if len(slope):
            slopes = slope[i]
            for j in range(e):
                x = row[j] + b[j]
                cdf, density = normal(x)
                row[j] = x * cdf
                slopes[j] = cdf + x * density
        else:
            for j in range(e):
                x = row[j] + b[j]
                row[j] = x * normal(x)[0]


@loop
def gelu_vjp(dh, slope, db):
    """dh ← dh · slope, both (n, e), and db (e) += Σ dh over rows."""
    n, e = dh.shape
    for i in range(n):
        row, slopes = dh[i], slope[i]
        for j in range(e):
            row[j] *= slopes[j]
            db[j] += row[j]


@twin(ops.gelu, takes=takes)
def gelu(x):
    """y = x Φ(x); see `ops.gelu`."""
    y = x.reshape(1, -1).copy()
    slope = np.empty((1 if is_recording() else 0, x.size), x.dtype)
    bias_gelu(y, np.zeros(x.size, x.dtype), slope)
    return y.reshape(x.shape), lambda dy: (dy * slope.reshape(x.shape),)
