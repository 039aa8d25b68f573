"""e^x for a number: float32 by a polynomial that vectorises, float64 by the C library."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import types
from numba.extending import overload

from minidat.fast.numba.loop import formula

F = np.float32
LOG2_E, ONE = F(1 / math.log(2)), F(1)
LN2_HIGH, LN2_LOW = F(0.693145751953125), F(1.428606765330187e-06)  # ln 2 in two parts: n times the first is exact
WHOLE = F(3 << 22)  # added to a number and taken off again it leaves the nearest whole one, which its last bits hold
LOWEST = F(-87)  # below, e^x would be smaller than the smallest normal float32: 0
C2, C3, C4, C5, C6 = (F(1 / math.factorial(n)) for n in range(2, 7))


@formula
def exp32(x):
    """e^x = 2ⁿ e^r with n = round(x/ln 2) and |r| ≤ ½ ln 2: Taylor's polynomial for e^r, and n into the exponent's bits.

    To 3e-7 of its size up to x = 88; 0 below −87 and for −∞.
    """
    shifted = F(x * LOG2_E + WHOLE)
    n = shifted - WHOLE
    r = (x - n * LN2_HIGH) - n * LN2_LOW
    e_r = ((((C6 * r + C5) * r + C4) * r + C3) * r + C2) * r * r + (r + ONE)
    two_n = np.int32((F(shifted).view(np.int32) + 127) << 23).view(np.float32)
    return F(0) if x < LOWEST else e_r * two_n


def exp(x: Any) -> Any:
    """e^x, in a loop, in the dtype of x."""
    raise NotImplementedError


@overload(exp)
def _(x):
    return (lambda x: exp32(x)) if x == types.float32 else (lambda x: math.exp(x))
