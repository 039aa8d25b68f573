"""Self-attention with views for heads, and one compiled loop between its products."""

from __future__ import annotations

import numpy as np

from minidat import ops
from minidat.fast.dispatch import NUMBA
from minidat.fast.numba.attention import score_gradients, weights
from minidat.ops.heads import split_heads


@NUMBA.implements(ops.self_attention, constants=(2,))
def self_attention(qkv, bias, mask, *, heads: int):
    """Y = Concat_m softmax(q⁽ᵐ⁾ k⁽ᵐ⁾ᵀ/√d + bias + mask) v⁽ᵐ⁾; see `ops.self_attention`."""
    e = qkv.shape[-1]
    if heads < 1 or e % (3 * heads):
        return NotImplemented  # the plain op raises the error
    c, d = e // 3, e // 3 // heads

    def parts(array):  # (..., n, 3C) → q, k, v, each (..., M, n, d): views
        return (split_heads(part, heads) for part in (array[..., i * c : (i + 1) * c] for i in range(3)))

    q, k, v = parts(qkv)
    p = weights(q, k, bias, mask, d**-0.5)
    y = np.empty((*qkv.shape[:-1], c), qkv.dtype)
    np.matmul(p, v, out=split_heads(y, heads))

    def vjp(dy):
        dy = split_heads(dy, heads)
        dqkv = np.empty(qkv.shape, qkv.dtype)
        dq, dk, dv = parts(dqkv)
        np.matmul(p.swapaxes(-1, -2), dy, out=dv)
        ds, dbias = score_gradients(p, np.matmul(dy, v.swapaxes(-1, -2), order="C"), bias)
        np.matmul(ds, k, out=dq)
        np.matmul(ds.swapaxes(-1, -2), q, out=dk)
        dqkv[..., : 2 * c] *= d**-0.5
        return dqkv, dbias, None

    return y, vjp
