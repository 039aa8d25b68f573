"""GELU with the exact erf: y = x Φ(x), where Φ is the normal distribution function."""

from __future__ import annotations

import math

from minidat.autograd.backend import array_module, erf
from minidat.autograd.engine import op

INV_SQRT2 = math.sqrt(0.5)
INV_SQRT2PI = 1 / math.sqrt(2 * math.pi)


@op("... -> ...")
def gelu(x):
    """y = x Φ(x), Φ(x) = ½ (1 + erf(x/√2)); dx = dy (Φ(x) + x φ(x)), φ(x) = e^(−x²/2)/√2π. Any shape; keeps the dtype."""
    cdf = 0.5 + 0.5 * erf(x * INV_SQRT2)  # Φ
    density = array_module(x).exp(-0.5 * x * x) * INV_SQRT2PI  # φ = Φ′
    return x * cdf, lambda dy: (dy * (cdf + x * density),)
