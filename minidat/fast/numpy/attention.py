"""Softmax attention in place, with one maximum for a tile of scores.

Any number may be subtracted from a row of scores before the exponentials. Here it is the largest score of the whole n × m
tile, which NumPy finds about ten times as fast as the largest of every row. Should a row lie so far below it that its
exponentials underflow, everything is computed again with each row's own maximum: then it costs twice the time. Chapter 16
measures the gain.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from minidat import ops
from minidat.fast.dispatch import NUMPY
from minidat.fast.numpy.softmax import exponentials, softmax_vjp
from minidat.ops.sums import row_sum, unbroadcast

Array = Any
FLOOR = 1e-25  # smallest safe row sum; below it exponentials may have underflowed


def weights(q: Array, k: Array, bias: Array | None, mask: Array | None, scale: float) -> Array:
    """P = softmax(scale·Q Kᵀ + bias + mask), (…, n, m). bias and mask broadcast to the scores, or are None."""
    p = scores(q, k, bias, mask, scale)
    tiles = p.reshape(*p.shape[:-2], -1)
    tiles -= tiles.max(axis=-1, keepdims=True)
    np.exp(tiles, out=tiles)
    total = row_sum(p)
    if total.min() > FLOOR:
        p *= 1 / total
        return p
    p = scores(q, k, bias, mask, scale)
    p /= exponentials(p)
    return p


def scores(q: Array, k: Array, bias: Array | None, mask: Array | None, scale: float) -> Array:
    """S = scale·Q Kᵀ + bias + mask"""
    s = np.matmul(q, k.swapaxes(-1, -2), order="C")  # (..., n, m), so that a tile is a row without a copy
    s *= scale
    if bias is not None:
        s += bias
    if mask is not None:
        s += mask
    return s


@NUMPY.implements(ops.attention, constants=(4,))
def attention(q, k, v, bias, mask, *, scale: float):
    """Y = softmax(scale·Q Kᵀ + bias + mask) V; see `ops.attention`."""
    if not q.shape[:-2] == k.shape[:-2] == v.shape[:-2]:
        return NotImplemented  # the plain op raises the error
    p = weights(q, k, bias, mask, scale)  # (..., n, m)
    y = p @ v  # (..., n, c)

    def vjp(dy):
        dv = p.swapaxes(-1, -2) @ dy
        dp = dy @ v.swapaxes(-1, -2)
        ds = softmax_vjp(dp, p, out=dp)
        dbias = None if bias is None else unbroadcast(ds, bias)
        dq, dk = ds @ k, ds.swapaxes(-1, -2) @ q
        dq *= scale
        dk *= scale
        return dq, dk, dv, dbias, None

    return y, vjp
