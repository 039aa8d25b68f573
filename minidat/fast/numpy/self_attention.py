"""Self-attention with views for heads: products read q, k and v where they are in qkv, and write their gradients there. It
saves the copies that `ops.self_attention` makes to join the parts; BLAS reads heads that are not contiguous."""

from __future__ import annotations

import numpy as np

from minidat import ops
from minidat.fast.dispatch import NUMPY
from minidat.fast.numpy.attention import weights
from minidat.fast.numpy.softmax import softmax_vjp
from minidat.ops.heads import split_heads
from minidat.ops.sums import unbroadcast


@NUMPY.implements(ops.self_attention, constants=(2,))
def self_attention(qkv, bias, mask, *, heads: int):
    """Y = Concat_m softmax(q⁽ᵐ⁾ k⁽ᵐ⁾ᵀ/√d + bias + mask) v⁽ᵐ⁾; see `ops.self_attention`."""
    e = qkv.shape[-1]
    if heads < 1 or e % (3 * heads):
        return NotImplemented  # the plain op raises the error
    n, d = qkv.shape[-2], e // 3 // heads

    def parts(array):  # (..., n, 3C) → q, k, v, each (..., M, n, d): views
        x = np.moveaxis(array.reshape(*array.shape[:-1], 3, heads, d), -3, 0)
        return x.swapaxes(-2, -3)

    q, k, v = parts(qkv)
    p = weights(q, k, bias, mask, d**-0.5)
    y = np.empty((*qkv.shape[:-1], heads, d), qkv.dtype)
    np.matmul(p, v, out=y.swapaxes(-2, -3))

    def vjp(dy):
        dy = split_heads(dy, heads)
        dqkv = np.empty(qkv.shape, qkv.dtype)  # in C order, so that its parts are views
        dq, dk, dv = parts(dqkv)
        np.matmul(p.swapaxes(-1, -2), dy, out=dv)
        dp = dy @ v.swapaxes(-1, -2)
        ds = softmax_vjp(dp, p, out=dp)
        dbias = None if bias is None else unbroadcast(ds, bias)
        ds = np.multiply(ds, d**-0.5, out=None if dbias is ds else ds)
        np.matmul(ds, k, out=dq)
        np.matmul(ds.swapaxes(-1, -2), q, out=dk)
        return dqkv, dbias, None

    return y.reshape(*qkv.shape[:-2], n, e // 3), vjp
