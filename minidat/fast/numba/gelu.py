"""GELU in float32 from a polynomial and an exponential, with the bias before it: no array between.

With t = |x|, Φ the normal distribution and φ its density:

    GELU(x) = max(x, 0) − t Φ(−t),    GELU′(x) = w for x < 0 and 1 − w for x ≥ 0,    w = Φ(−t) − t φ(t)

Φ(−t) is a polynomial up to t = FAR; beyond it counts as 0. So small numbers keep their relative precision. The
polynomial is written as a sum of pairs of pairs (Estrin's scheme), so that a processor can work on several terms at a time.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
from numpy.polynomial import chebyshev

from minidat import ops
from minidat.fast.dispatch import NUMBA
from minidat.fast.numba.exp import exp32
from minidat.fast.numba.loop import formula, loop

FAR = np.float32(5.5)  # t Φ(−t) is 1e-7 there
NO_DENSITY = np.float32(14)  # `exp32` gives 0 for φ there
DEGREE = 15
MINUS_HALF, ZERO, ONE, TO_ONE = np.float32(-0.5), np.float32(0), np.float32(1), np.float32(2 / FAR)
INV_SQRT2PI = np.float32(1 / math.sqrt(2 * math.pi))


@cache
def coefficients() -> np.ndarray:
    """Φ(−t) in powers of s = 2t/FAR − 1, which is −1 … 1: float32 (DEGREE + 1,)."""
    s = chebyshev.chebpts1(256)
    t = (s + 1) * FAR / 2
    below = [math.erfc(x / math.sqrt(2)) / 2 for x in t]
    return chebyshev.cheb2poly(chebyshev.chebfit(s, below, DEGREE, w=1 + t)).astype(np.float32)


@formula
def below(t, a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p):  # noqa: E741
    """Φ(−t) = a + b s + c s² + … + p s¹⁵, and 0 beyond FAR"""
    s = min(t, FAR) * TO_ONE - ONE
    s2 = s * s
    s4 = s2 * s2
    low = ((a + b * s) + (c + d * s) * s2) + ((e + f * s) + (g + h * s) * s2) * s4
    high = ((i + j * s) + (k + l * s) * s2) + ((m + n * s) + (o + p * s) * s2) * s4
    return ZERO if t > FAR else low + high * (s4 * s4)


@loop
def bias_gelu(h, b, p, out):
    """out ← GELU(h + b), a row b for all rows of h (n, e); out is another array, or the loop is not vectorised. p: the
    `coefficients`."""
    n, e = h.shape
    # numbers of their own, not elements of p, so that they stay where the loop finds them
    p0, p1, p2, p3, p4, p5, p6, p7 = p[0], p[1], p[2], p[3], p[4], p[5], p[6], p[7]
    p8, p9, p10, p11, p12, p13, p14, p15 = p[8], p[9], p[10], p[11], p[12], p[13], p[14], p[15]
    for i in range(n):
        row, y = h[i], out[i]
        for j in range(e):
            x = row[j] + b[j]
            t = abs(x)
            tail = below(t, p0, p1, p2, p3, p4, p5, p6, p7, p8, p9, p10, p11, p12, p13, p14, p15)
            y[j] = max(x, ZERO) - min(t, FAR) * tail


@loop
def bias_gelu_vjp(h, b, p, dy, db, out):
    """dy ← dy · GELU′(h + b) and db (e) += its sum over rows; out ← GELU(h + b) again. h, dy, out (n, e)."""
    n, e = h.shape
    p0, p1, p2, p3, p4, p5, p6, p7 = p[0], p[1], p[2], p[3], p[4], p[5], p[6], p[7]
    p8, p9, p10, p11, p12, p13, p14, p15 = p[8], p[9], p[10], p[11], p[12], p[13], p[14], p[15]
    for i in range(n):
        row, y, d = h[i], out[i], dy[i]
        for j in range(e):
            x = row[j] + b[j]
            t = abs(x)
            tail = below(t, p0, p1, p2, p3, p4, p5, p6, p7, p8, p9, p10, p11, p12, p13, p14, p15)
            y[j] = max(x, ZERO) - min(t, FAR) * tail
            near = min(t, NO_DENSITY)
            w = tail - near * (INV_SQRT2PI * exp32(MINUS_HALF * near * near))
            d[j] *= w if x < ZERO else ONE - w
        for j in range(e):
            db[j] += d[j]


@NUMBA.implements(ops.gelu)
def gelu(x):
    """y = x Φ(x); see `ops.gelu`. For the gradient it keeps x alone."""
    if x.dtype != np.float32:
        return NotImplemented
    h = x.reshape(-1, x.shape[-1] if x.ndim else 1)
    y, zero = np.empty_like(h), np.zeros(h.shape[1], x.dtype)
    bias_gelu(h, zero, coefficients(), y)

    def vjp(dy):
        dx = np.array(dy, order="C").reshape(h.shape)
        bias_gelu_vjp(h, zero, coefficients(), dx, np.zeros_like(zero), np.empty_like(h))
        return (dx.reshape(x.shape),)

    return y.reshape(x.shape), vjp
