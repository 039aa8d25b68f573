"""Floating-point numbers that NumPy does not have, as float32: bfloat16 and the two float8 types of checkpoints.

Every value of the three is a float32 too, so nothing is rounded.
"""

from __future__ import annotations

import numpy as np


def from_bfloat16(bits: np.ndarray) -> np.ndarray:
    """uint16, any shape and strides → float32: a bfloat16 is the upper half of a float32."""
    out = bits.astype(np.uint32, order="C")
    out <<= 16
    return out.view(np.float32)


def from_float8_e5m2(bits: np.ndarray) -> np.ndarray:
    """uint8 → float32: sign, 5 bits of exponent, 2 of mantissa, which is the upper half of a float16."""
    return (bits.astype(np.uint16, order="C") << 8).view(np.float16).astype(np.float32)


def from_float8_e4m3(bits: np.ndarray) -> np.ndarray:
    """uint8 → float32: sign, 4 bits of exponent e, 3 of mantissa m, with NaN at s1111111 and no infinity ("e4m3fn").

    ±(1 + m/8) 2^(e−7), and ±(m/8) 2^(−6) where e is 0. Source: Micikevicius et al., "FP8 formats for deep learning", 2022.
    """
    return _E4M3[bits]


def _e4m3_table() -> np.ndarray:
    """The values of all 256 bytes."""
    bits = np.arange(256)
    exponent, mantissa = bits >> 3 & 15, bits & 7
    size = np.where(exponent > 0, np.ldexp(1 + mantissa / 8, exponent - 7), np.ldexp(mantissa / 8, -6))
    size[(bits & 127) == 127] = np.nan
    return np.where(bits < 128, size, -size).astype(np.float32)


_E4M3 = _e4m3_table()
