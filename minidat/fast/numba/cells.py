"""The two pixels around a position, and their weights."""

from __future__ import annotations

import math

from minidat.fast.numba.loop import formula


@formula
def cell(a, n):
    """(b, (g(a, b), g(a, b + 1))) for b = ⌊a⌋: of the pixels 0 … n−1 only b and b + 1 have a value or a slope at a.

    b is −1 … n−1, or n where a is off these pixels; the weights are 0 there, and NaN for a NaN.
    """
    a = float(a)
    if math.isnan(a):
        return n, (a, a)
    if not -1 <= a < n:
        return n, (0.0, 0.0)
    b = math.floor(a)
    after = a - b
    return b, (1.0 - after, after)
