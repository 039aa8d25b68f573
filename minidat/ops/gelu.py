"""GELU with the exact erf: y = x Φ(x), where Φ is the normal distribution function.

dy/dx = Φ(x) + x φ(x), with the density φ(x) = e^(−x²/2) / √2π. In float32 on the CPU, value and slope are computed in one
pass over blocks that stay in the cache, with erf by formula 7.1.26 of Abramowitz & Stegun (|error| ≤ 1.5e-7, below
float32's own rounding of Φ), whose e^(−x²/2) the slope needs too.
"""

from __future__ import annotations

import math

import numpy as np

from minidat.autograd.backend import array_module, erf
from minidat.autograd.engine import is_recording, op

BLOCK = 32768  # elements: small enough for the cache, large enough for the calls to be few beside the work
_INV_SQRT2 = math.sqrt(0.5)
_INV_SQRT2PI = 1 / math.sqrt(2 * math.pi)
# erf(z) ≈ 1 − t (a₁ + t (a₂ + …)) e^(−z²) with t = 1/(1 + p z), z ≥ 0; halved here, since Φ = ½ (1 + erf(x/√2))
_P = 0.3275911
_HALF_A = tuple(a / 2 for a in (1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592))


@op("... -> ...")
def gelu(x):
    """y = x Φ(x), Φ(x) = ½ (1 + erf(x/√2)); dx = dy (Φ(x) + x φ(x)). Any shape; keeps the dtype."""
    if array_module(x) is np and x.dtype == np.float32:
        y, slope = _blocked(x, is_recording())
    else:
        xp = array_module(x)
        cdf = 0.5 + 0.5 * erf(x * _INV_SQRT2)
        y = x * cdf
        slope = cdf + x * (xp.exp(-0.5 * x * x) * _INV_SQRT2PI)
    return y, lambda dy: (dy * slope,)


def _blocked(x: np.ndarray, with_slope: bool) -> tuple[np.ndarray, np.ndarray | None]:
    """GELU and its slope in float32, block by block."""
    flat = np.ascontiguousarray(x).reshape(-1)
    y = np.empty_like(flat)
    slope = np.empty_like(flat) if with_slope else None
    scratch = np.empty((3, min(BLOCK, flat.size)), np.float32)
    for start in range(0, flat.size, BLOCK):
        a = flat[start : start + BLOCK]
        t, e, cdf = scratch[:, : a.size]
        np.abs(a, out=t)
        t *= _P * _INV_SQRT2
        t += 1.0
        np.reciprocal(t, out=t)
        np.multiply(a, a, out=e)
        e *= -0.5
        np.exp(e, out=e)  # e^(−x²/2)
        np.multiply(t, _HALF_A[0], out=cdf)
        for coefficient in _HALF_A[1:]:
            cdf += coefficient
            cdf *= t
        cdf *= e  # ½ (1 − erf(|x|/√2))
        np.subtract(0.5, cdf, out=cdf)
        np.copysign(cdf, a, out=cdf)
        cdf += 0.5  # Φ(x)
        np.multiply(a, cdf, out=y[start : start + BLOCK])
        if slope is not None:
            e *= _INV_SQRT2PI
            e *= a
            np.add(cdf, e, out=slope[start : start + BLOCK])
    return y.reshape(x.shape), None if slope is None else slope.reshape(x.shape)
