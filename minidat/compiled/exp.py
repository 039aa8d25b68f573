"""e^x and the normal distribution for a number: float32 by polynomials that vectorise, float64 by the C library."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import types  # ty: ignore[unresolved-import]
from numba.extending import overload  # ty: ignore[unresolved-import]

from minidat.compiled.loop import formula

F = np.float32
LOG2_E, HALF, ONE = F(1 / math.log(2)), F(0.5), F(1)
LN2_HIGH, LN2_LOW = F(0.693145751953125), F(1.428606765330187e-06)  # ln 2 in two parts: n times the first is exact
WHOLE = F(3 << 22)  # added to a number and taken off again it leaves the nearest whole one, which its last bits hold
LOWEST = F(-87)  # below, e^x would be smaller than the smallest normal float32: 0
C2, C3, C4, C5, C6 = (F(1 / math.factorial(n)) for n in range(2, 7))
INV_SQRT2, INV_SQRT_2PI = math.sqrt(0.5), 1 / math.sqrt(2 * math.pi)
INV_SQRT2_F, INV_SQRT_2PI_F = F(INV_SQRT2), F(INV_SQRT_2PI)
P, A1, A2, A3, A4, A5 = map(F, (0.3275911, 0.254829592, -0.284496736, 1.421413741, -1.453152027, 1.061405429))


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


@formula
def normal32(x):
    """(Φ(x), φ(x)): 1 − Φ(|x|) = ½ (a₁t + … + a₅t⁵) e^(−x²/2) with t = 1/(1 + p |x|/√2), to 1e-7, where
    φ(x) = e^(−x²/2)/√2π. Source: Abramowitz and Stegun, 7.1.26."""
    e = exp32(-HALF * x * x)
    t = ONE / (ONE + P * INV_SQRT2_F * abs(x))
    tail = HALF * ((((A5 * t + A4) * t + A3) * t + A2) * t + A1) * t * e
    return (tail if x < F(0) else ONE - tail), e * INV_SQRT_2PI_F


@formula
def normal64(x):
    """(Φ(x), φ(x)), Φ(x) = ½ (1 + erf(x/√2)), φ(x) = e^(−x²/2)/√2π"""
    return 0.5 + 0.5 * math.erf(x * INV_SQRT2), math.exp(-0.5 * x * x) * INV_SQRT_2PI


def exp(x: Any) -> Any:
    """e^x, in a loop, in the dtype of x."""
    raise NotImplementedError


def normal(x: Any) -> Any:
    """(Φ(x), φ(x)), the normal distribution function and its density, in a loop, in the dtype of x."""
    raise NotImplementedError


@overload(exp)
def _(x):
    return (lambda x: exp32(x)) if x == types.float32 else (lambda x: math.exp(x))


@overload(normal)
def _(x):
    return (lambda x: normal32(x)) if x == types.float32 else (lambda x: normal64(x))
