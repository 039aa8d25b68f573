"""Softmax attention: products by NumPy, with one compiled loop between them."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidat import ops
from minidat.fast.dispatch import NUMBA
from minidat.fast.numba.softmax import Term, own_axes, softmax_of, softmax_vjp_of, term
from minidat.ops.sums import unbroadcast


def weights(q: np.ndarray, k: np.ndarray, bias: Any, mask: Any, scale: float) -> np.ndarray:
    """P = softmax(scale·Q Kᵀ + bias + mask), (…, n, m)."""
    p = np.matmul(q, k.swapaxes(-1, -2), order="C")  # C order: the loop works in place on a reshaped view
    softmax_of(p, scale, bias, mask)
    return p


def score_gradients(p: np.ndarray, dp: np.ndarray, bias: Any) -> tuple[np.ndarray, np.ndarray | None]:
    """(dS, the gradient of the bias or None). dP is written over: it becomes dS."""
    if bias is None or bias.shape == p.shape:
        softmax_vjp_of(p, dp, term(None, p))
        return dp, None if bias is None else dp
    own, inner = own_axes(bias.shape, p.shape)
    dbias = np.zeros((*own, *p.shape[-2:]), p.dtype)
    softmax_vjp_of(p, dp, Term(dbias.reshape(-1, *p.shape[-2:]), inner))
    return dp, unbroadcast(dbias, bias)


@NUMBA.implements(ops.attention, strided=(0, 1, 2), constants=(4,))
def attention(q, k, v, bias, mask, *, scale: float):
    """Y = softmax(scale·Q Kᵀ + bias + mask) V; see `ops.attention`."""
    if not q.shape[:-2] == k.shape[:-2] == v.shape[:-2]:
        return NotImplemented  # the plain op raises the error
    p = weights(q, k, bias, mask, scale)  # (..., n, m)
    y = p @ v

    def vjp(dy):
        dv = p.swapaxes(-1, -2) @ dy
        ds, dbias = score_gradients(p, np.matmul(dy, v.swapaxes(-1, -2), order="C"), bias)
        dq, dk = ds @ k, ds.swapaxes(-1, -2) @ q
        dq *= scale
        dk *= scale
        return dq, dk, dv, dbias, None

    return y, vjp
